package dian_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// What the documents show of Go is Go, of this SDK.
func TestSnippetsOfTheDocumentsCompile(t *testing.T) {
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	block := regexp.MustCompile("(?s)\n```go\n(.*?)```")
	n := 0
	add := func(code string) {
		n++
		file := filepath.Join(dir, fmt.Sprintf("snippet%d.go", n))
		text := "package snippets\n\nimport (\n\t\"context\"\n\t\"errors\"\n\t\"log\"\n\n\t\"github.com/dian-im/dian\"\n)\n\nvar (\n\t_ = errors.Is\n\t_ = log.Println\n)\n\n" +
			fmt.Sprintf("func snippet%d(ctx context.Context, client *dian.Client, token string) error {\n%s\nreturn nil\n}\n", n, code)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(root, "internal", "snippets", filepath.Base(file))] = file
	}
	build := func() ([]byte, error) {
		text, err := json.Marshal(overlay)
		if err != nil {
			t.Fatal(err)
		}
		list := filepath.Join(dir, "overlay.json")
		if err := os.WriteFile(list, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.Command("go", "build", "-overlay", list, "./internal/snippets").CombinedOutput()
	}
	for _, name := range []string{"README.md", "README.zh-CN.md", "docs/migrating.md", "docs/migrating.zh-CN.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found := block.FindAllSubmatch(text, -1)
		if len(found) == 0 {
			t.Errorf("%s shows no Go", name)
		}
		for _, m := range found {
			add(string(m[1]))
		}
	}
	if out, err := build(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	add("client.NoSuchCall()")
	if out, err := build(); err == nil {
		t.Errorf("a call that does not exist compiles: %s", out)
	}
}
