package logsrc

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A file on this machine's own disk is on no network.
func TestNetworkMount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "newbans.log")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	kind := uint32(st.Type)
	if was, ok := networkMounts[kind]; ok {
		t.Logf("the temporary folder is on %s", was)
		delete(networkMounts, kind)
		defer func() { networkMounts[kind] = was }()
	}
	if got := networkMount(file); got != "" {
		t.Errorf("on a disk: %q", got)
	}
	networkMounts[kind] = "nfs" // what statfs would say there
	defer delete(networkMounts, kind)
	if got := networkMount(file); got != "nfs" {
		t.Errorf("on a mount: %q", got)
	}
	r, err := openReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	f := Follower{current: r}
	f.setProblem(nil)
	if got := f.Stats().Network; got != "nfs" {
		t.Errorf("the follower says %q", got)
	}
}
