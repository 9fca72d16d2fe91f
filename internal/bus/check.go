package bus

import (
	"errors"
	"fmt"
	"strings"
)

var errSubject = errors.New("bus: a subject is words of printable ASCII with dots between them, and no wildcards")

// CheckSubject says whether a subject can be subscribed, published to and asked on
// every bus: words of printable ASCII without space, * and >, with a dot between two.
// NATS itself would take more, wildcards too, which this interface does not have.
func CheckSubject(subject string) error {
	for word := range strings.SplitSeq(subject, ".") {
		if word == "" {
			return errSubject
		}
		for i := range len(word) {
			if c := word[i]; c <= ' ' || c >= 0x7f || c == '*' || c == '>' {
				return errSubject
			}
		}
	}
	return nil
}

// CheckMessage is CheckSubject, and says whether the data is no longer than most.
func CheckMessage(subject string, data []byte, most int) error {
	if len(data) > most {
		return fmt.Errorf("bus: a message of %d bytes, and at most %d can be sent", len(data), most)
	}
	return CheckSubject(subject)
}
