package config

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/meshban/meshban/cmd/meshban/internal/feed"
)

const formFile = "write {name: nginx.conf, format: nginx, every: 5s}"

func readFile(n *yaml.Node) (File, error) {
	f := File{Every: DefaultEvery}
	_, err := readPairs(n, "a file", formFile, []string{"name", "format", "every"}, func(key, v string) (err error) {
		switch key {
		case "name":
			f.Name = v
		case "format":
			f.Format = feed.Format(v)
		case "every":
			f.Every, err = ParseDuration(v)
		}
		return err
	})
	if err == nil {
		err = f.check()
	}
	return f, err
}

func (f File) format() string {
	return "{name: " + yamlString(f.Name) + ", format: " + string(f.Format) + ", every: " + FormatDuration(f.Every) + "}"
}

func (f File) check() error {
	if f.Name == "" || len(f.Name) > MaxName || !named(f.Name) || strings.HasPrefix(f.Name, ".") || strings.HasPrefix(f.Name, "-") {
		return bad(quote(f.Name)+" is not the name of a file", formFile)
	}
	if _, err := feed.Known(string(f.Format)); err != nil {
		return bad(quote(string(f.Format))+" is not a format", "write "+feed.List())
	}
	return length(&f.Every, MinEvery, MaxEvery).check()
}

// checkFiles reports names that are there twice.
func (c Config) checkFiles(k *checker) {
	seen := map[string]bool{}
	for _, f := range c.Files {
		if seen[f.Name] {
			k.fail("files", "", quote(f.Name)+" is the name of two files", "write another name")
		}
		seen[f.Name] = true
	}
}
