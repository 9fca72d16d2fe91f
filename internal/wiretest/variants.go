// Package wiretest makes frames of every kind and form, for tests of those who
// receive them.
package wiretest

import (
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/dian-im/dian/internal/wire"
)

// A Variant is a frame and what is odd about it.
type Variant struct {
	Kind, Name string // "Offer", "size = -1"
	Frame      *wire.Frame
}

func (v Variant) String() string { return v.Kind + " " + v.Name }

// Odd reports whether one field has a value of its own, beside the three forms that
// every kind has.
func (v Variant) Odd() bool { return strings.Contains(v.Name, "=") }

// Copy returns a frame that may be changed.
func (v Variant) Copy() *wire.Frame { return proto.CloneOf(v.Frame) }

// Variants makes frames of every kind in session.proto: empty ones, plausible ones,
// the largest ones, ones with one text too long, and ones with one absurd number in
// any field, nested ones too (cases 13 and 15). known has values for fields that
// have to be of this world, by the field's name, "offset", or with its message's,
// "Answer.offset".
func Variants(known map[string]any) []Variant {
	var list []Variant
	body := new(wire.Frame).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range body.Len() {
		field := body.Get(i)
		kind := string(field.Message().Name())
		make := func(name string, change func(m protoreflect.Message)) {
			f := new(wire.Frame)
			change(f.ProtoReflect().Mutable(field).Message())
			list = append(list, Variant{kind, name, f})
		}
		plausible := func(m protoreflect.Message) { fill(m, known, 0) }
		make("empty", func(protoreflect.Message) {})
		make("plausible", plausible)
		make("with the largest contents", func(m protoreflect.Message) { fill(m, known, 1) })
		for _, path := range paths(field.Message(), nil) {
			leaf := path[len(path)-1]
			for _, v := range absurd(leaf) {
				make(fmt.Sprintf("%s = %v", pathName(path), shown(v)), func(m protoreflect.Message) {
					plausible(m)
					set(m, path, v)
				})
			}
		}
	}
	return list
}

// paths are the ways to every field that is no message, in m and below.
func paths(m protoreflect.MessageDescriptor, above []protoreflect.FieldDescriptor) [][]protoreflect.FieldDescriptor {
	var all [][]protoreflect.FieldDescriptor
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		path := append(above[:len(above):len(above)], f)
		if f.Message() == nil {
			all = append(all, path)
			continue
		}
		all = append(all, paths(f.Message(), path)...)
	}
	return all
}

func pathName(path []protoreflect.FieldDescriptor) string {
	var names []string
	for _, f := range path {
		names = append(names, string(f.Name()))
	}
	return strings.Join(names, ".")
}

// set sets the field at the end of a path, in the first element of a list.
func set(m protoreflect.Message, path []protoreflect.FieldDescriptor, v protoreflect.Value) {
	for _, f := range path[:len(path)-1] {
		if f.IsList() {
			list := m.Mutable(f).List()
			if list.Len() == 0 {
				list.Append(list.NewElement())
			}
			m = list.Get(0).Message()
			continue
		}
		m = m.Mutable(f).Message()
	}
	leaf := path[len(path)-1]
	if !leaf.IsList() {
		m.Set(leaf, v)
		return
	}
	list := m.Mutable(leaf).List()
	list.Truncate(0)
	list.Append(v)
}

// absurd are values that a field should not have, and borders of those that it may.
func absurd(f protoreflect.FieldDescriptor) []protoreflect.Value {
	var all []protoreflect.Value
	switch f.Kind() {
	case protoreflect.Int64Kind:
		for _, n := range []int64{-1, math.MinInt64, 1 << 31, 1 << 32, 1 << 53, math.MaxInt64} {
			all = append(all, protoreflect.ValueOfInt64(n))
		}
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		for _, n := range []uint64{1 << 31, 1 << 32, 1 << 53, math.MaxInt64, 1 << 63, math.MaxUint64} {
			all = append(all, protoreflect.ValueOfUint64(n))
		}
	case protoreflect.Uint32Kind:
		for _, n := range []uint32{4711, 1 << 31, math.MaxUint32} {
			all = append(all, protoreflect.ValueOfUint32(n))
		}
	case protoreflect.Int32Kind:
		for _, n := range []int32{-1, math.MinInt32, math.MaxInt32} {
			all = append(all, protoreflect.ValueOfInt32(n))
		}
	case protoreflect.BoolKind:
		all = append(all, protoreflect.ValueOfBool(true), protoreflect.ValueOfBool(false))
	case protoreflect.EnumKind:
		for _, n := range []protoreflect.EnumNumber{0, -1, 5, 99, math.MaxInt32, math.MinInt32} {
			all = append(all, protoreflect.ValueOfEnum(n))
		}
	case protoreflect.StringKind:
		for _, s := range []string{"", "..", "a\x00b", "\u202e", "e\u0301", strings.Repeat("x", 10_000)} {
			all = append(all, protoreflect.ValueOfString(s))
		}
	case protoreflect.BytesKind:
		for _, n := range []int{0, 1, 17, 5000, 70_000} {
			all = append(all, protoreflect.ValueOfBytes(make([]byte, n)))
		}
	}
	return all
}

func shown(v protoreflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		if len(x) > 20 {
			return fmt.Sprintf("%d characters", len(x))
		}
		return fmt.Sprintf("%q", x)
	case []byte:
		return fmt.Sprintf("%d bytes", len(x))
	}
	return v.String()
}

// contentLimits are the sizes of docs/protocol.md §2.
var contentLimits = map[string]int{"data": 65536, "reply": 65536, "inline": 65536, "meta": 4096, "header": 4096, "name": 1024, "type": 255, "detail": 512, "client": 128}

// fill gives every field a value that it could have; with size 1 the contents are as
// large as may be.
func fill(m protoreflect.Message, known map[string]any, size int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := string(f.Name())
		switch value, is := known[string(m.Descriptor().Name())+"."+name]; {
		case is:
			m.Set(f, protoreflect.ValueOf(value))
			continue
		case f.IsList():
			continue // absent is plausible everywhere
		}
		if f.Message() != nil {
			if name == "digest" {
				continue // absent, too
			}
			fill(m.Mutable(f).Message(), known, size)
			continue
		}
		if value, is := known[name]; is {
			if protoreflect.ValueOf(value).IsValid() && sameKind(f, value) {
				m.Set(f, protoreflect.ValueOf(value))
				continue
			}
		}
		n := min(3, contentLimits[name])
		if size > 0 {
			n = contentLimits[name]
		}
		switch f.Kind() {
		case protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(strings.Repeat("x", n)))
		case protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes(make([]byte, n)))
		case protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(1))
		}
	}
}

func sameKind(f protoreflect.FieldDescriptor, value any) bool {
	switch value.(type) {
	case string:
		return f.Kind() == protoreflect.StringKind
	case []byte:
		return f.Kind() == protoreflect.BytesKind
	case uint64:
		return f.Kind() == protoreflect.Uint64Kind
	case int64:
		return f.Kind() == protoreflect.Int64Kind
	}
	return false
}
