package inbox

import "github.com/dian-im/dian/internal/filename"

// SafeName returns the name under which a file that its sender called name can be
// created: filename.Safe.
func SafeName(name string) string { return filename.Safe(name) }
