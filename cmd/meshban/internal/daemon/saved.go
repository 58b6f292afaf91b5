package daemon

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
)

const (
	// nftConf is what nftables.service loads at boot, and nftUnit matches its links below systemd's folder.
	nftConf, nftUnit = "/etc/nftables.conf", "/etc/systemd/system/*.wants/nftables.service"
	// maxRuleset bounds what is read of nftConf, in bytes.
	maxRuleset = 8 << 20
	// chainOfOurs occurs in a ruleset that was saved while iptables held our rules.
	chainOfOurs = "MESHBAN"
)

// savedRuleset returns what to do if the administrator saves the firewall with `nft list ruleset`, which cannot write the
// set matches that iptables-nft holds for us; "" if nothing loads such a file at boot. The paths are below root.
func savedRuleset(root string) string {
	const remedy = "write `firewall: {backends: [nftables]}` into meshban.yaml, restart the agent"
	if hasOurChain(root + nftConf) {
		return nftConf + " has meshban's rules as `nft list ruleset` printed them, and nft cannot load that again: " + remedy + ", and save once more"
	}
	if links, err := filepath.Glob(root + nftUnit); err != nil || len(links) == 0 {
		return ""
	}
	return "nftables.service loads " + nftConf + " at boot, and what `nft list ruleset` prints now cannot be loaded again: before you save it there, " +
		remedy + "; or save by iptables-save"
}

// hasOurChain reports whether a file names a chain of ours.
func hasOurChain(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRuleset))
	return err == nil && bytes.Contains(text, []byte(chainOfOurs))
}
