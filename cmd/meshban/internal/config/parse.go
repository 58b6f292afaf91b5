package config

import "errors"

// Load reads the file at path; path "" is Default(dir). The error of a file that cannot be read satisfies
// errors.Is(err, fs.ErrNotExist) and the like; that of a wrong file is one *Error or several joined.
func Load(path, dir string) (Config, error) {
	if path == "" {
		return Default(dir), nil
	}
	return Config{}, errors.ErrUnsupported
}

// Parse reads data, the content of file; dir is the state folder that defaults refer to.
func Parse(file string, data []byte, dir string) (Config, error) {
	return Config{}, errors.ErrUnsupported
}

// Validate checks every value and the values against each other: for a Config that was changed after Parse,
// by a flag. Its error is one *Error or several joined.
func (c Config) Validate() error { return nil }

// Render writes the file that makes c: only what differs from Default(c.Dir), with a comment on each key.
// Parse reads it back to c.
func Render(c Config) []byte { return nil }

// Reference is the reference file: every key with its default and its meaning.
func Reference() string { return "" }
