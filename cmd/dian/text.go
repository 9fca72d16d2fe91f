package main

import (
	"fmt"
	"reflect"

	"github.com/alecthomas/kong"
)

// Arguments reach us byte by byte: a command's text is the user's data, and a path
// need not be UTF-8. Kong's own decoders pass them through JSON, which puts U+FFFD in
// place of what is not.
func exactArguments() []kong.Option {
	text := func(ctx *kong.DecodeContext) (string, error) {
		token, err := ctx.Scan.PopValue("string")
		if err != nil {
			return "", err
		}
		s, ok := token.Value.(string)
		if !ok {
			return "", fmt.Errorf("expected text but got %T", token.Value)
		}
		return s, nil
	}
	return []kong.Option{
		kong.KindMapper(reflect.String, kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
			s, err := text(ctx)
			if err == nil {
				target.SetString(s)
			}
			return err
		})),
		kong.NamedMapper("path", kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
			s, err := text(ctx)
			if err != nil || s == "" && ctx.Value.HasDefault {
				return err
			}
			if s != "-" {
				s = kong.ExpandPath(s)
			}
			target.SetString(s)
			return nil
		})),
	}
}
