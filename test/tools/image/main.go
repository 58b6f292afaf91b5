// Command image writes meshban's image as an OCI layout: image FOLDER VERSION SECONDS ARCH=PROGRAM... SECONDS is the time of
// all that is in it. The image holds the program alone.
package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 4 {
		return fmt.Errorf("usage: image FOLDER VERSION SECONDS ARCH=PROGRAM")
	}
	seconds, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return err
	}
	at := time.Unix(seconds, 0).UTC()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arg := range args[3:] {
		arch, program, _ := strings.Cut(arg, "=")
		image, err := imageOf(program, arch, args[1], at)
		if err != nil {
			return err
		}
		platform := &v1.Platform{OS: "linux", Architecture: arch}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	_, err = layout.Write(args[0], index)
	return err
}

// imageOf returns the image for one architecture.
func imageOf(program, arch, version string, at time.Time) (v1.Image, error) {
	text, err := layerOf(program, at)
	if err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
	layer, err := tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	history := v1.History{Created: v1.Time{Time: at}, CreatedBy: "test/release"}
	if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: history, MediaType: types.OCILayer}); err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", arch, v1.Time{Time: at}
	file.Config = v1.Config{
		// There is no iptables in the image; nftables needs none.
		Entrypoint:   []string{"/usr/sbin/meshban"},
		Cmd:          []string{"agent", "--firewall", "nftables"},
		Env:          []string{"PATH=/usr/sbin", "MESHBAN_DIR=/var/lib/meshban"},
		Volumes:      map[string]struct{}{"/var/lib/meshban": {}},
		ExposedPorts: map[string]struct{}{"7946/tcp": {}, "7946/udp": {}},
		Labels: map[string]string{
			"org.opencontainers.image.source":   "https://github.com/meshban/meshban",
			"org.opencontainers.image.licenses": "MIT",
			"org.opencontainers.image.version":  version,
		},
	}
	return mutate.ConfigFile(image, file)
}

// layerOf returns a tar of all that is in the image.
func layerOf(program string, at time.Time) ([]byte, error) {
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range []tar.Header{
		{Name: "usr/", Mode: 0o755}, {Name: "usr/sbin/", Mode: 0o755}, {Name: "usr/sbin/meshban", Mode: 0o755, Size: int64(len(data))},
		{Name: "var/", Mode: 0o755}, {Name: "var/lib/", Mode: 0o755}, {Name: "var/lib/meshban/", Mode: 0o711},
	} {
		if h.Typeflag, h.ModTime = tar.TypeDir, at; h.Size > 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if h.Size > 0 {
			if _, err := w.Write(data); err != nil {
				return nil, err
			}
		}
	}
	return out.Bytes(), w.Close()
}
