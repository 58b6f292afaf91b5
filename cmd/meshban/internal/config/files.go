package config

import (
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/feed"
)

const formFile = "write {name: nginx.conf, format: nginx, every: 5s}"

var fileKeys = mapping[File]{"a file", formFile, File{Every: DefaultEvery}, func(f *File) []field {
	return []field{
		{"name", "", setting[string]{&f.Name, word(asWritten), yamlString}},
		{"format", "", setting[feed.Format]{&f.Format, word(func(s string) (feed.Format, error) { return feed.Format(s), nil }), func(f feed.Format) string { return string(f) }}},
		{"every", "", length(&f.Every, MinEvery, MaxEvery)},
	}
}, func(f File) error {
	if f.Name == "" || len(f.Name) > MaxName || !named(f.Name) || strings.HasPrefix(f.Name, ".") || strings.HasPrefix(f.Name, "-") {
		return bad(quote(f.Name)+" is not the name of a file", formFile)
	}
	if _, err := feed.Known(string(f.Format)); err != nil {
		return bad(quote(string(f.Format))+" is not a format", "write "+feed.List())
	}
	return nil
}}
