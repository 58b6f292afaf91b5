// Package node makes this machine a member of a mesh and runs its agent: it holds the commands that need no running
// agent. The caller parses and checks the flags; a zero field was not given.
package node

import (
	"io"
	"net/netip"
	"os"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// ConfigError is the error of an agent whose config is wrong: a value in the file or the environment, or the
// permissions of the state folder or of a file in it.
type ConfigError struct{ error }

// Unwrap returns the cause.
func (e ConfigError) Unwrap() error { return e.error }

// WrongConfig returns err as a ConfigError.
func WrongConfig(err error) error { return ConfigError{err} }

// AgentOptions override the config file, field by field.
type AgentOptions struct {
	Dir       string // absolute
	Name      string
	Bind      netip.AddrPort
	Advertise netip.AddrPort
	Join      []string // each host:port
	LineFile  string   // absolute
	Firewall  []string // backends in the order in which to try them, without "auto"
	Config    string   // absolute; "" = meshban.yaml in Dir, if it is there
	Metrics   netip.AddrPort
	LogFormat config.LogFormat

	Version string
	Stderr  io.Writer        // for the log and messages to the operator
	Reload  <-chan os.Signal // a value = reread the config; never closed
}

// JoinOptions say under which name this machine enters a mesh, and with which token or certificate it enrols.
type JoinOptions struct {
	Dir   string // absolute
	Token string
	Name  string
	Bind  netip.AddrPort

	Certificate []byte   // what meshban ca sign printed; nil = use Token
	Join        []string // each host:port; only with Certificate
}

// RekeyResult is the node's new and former identity.
type RekeyResult struct {
	Name   string `json:"name"`
	ID     string `json:"id"` // 32 hex digits, like Former
	Former string `json:"former"`
}

// CAOptions say what to do with the authority's key.
type CAOptions struct {
	Dir     string       // absolute
	Do      string       // "sign", "export" or "import"
	Request []byte       // sign: what meshban join --request has printed
	Key     string       // sign: an exported key, absolute; "" = the folder's
	File    string       // export, import: absolute
	Move    bool         // export: remove the key from the folder
	Caps    control.Caps // sign: the certificate's caps
}

// CAResult is what was signed or moved.
type CAResult struct {
	Text []byte // for stdout: a request, or a certificate with the mesh's key
	Said string // what was done
	Next string // what is left to do, as a hint
}

// JoinResult is what Init or Join made, got and wrote.
type JoinResult struct {
	Name   string   `json:"name"`           // of this node
	ID     string   `json:"id"`             // of this node, 32 hex digits
	Mesh   string   `json:"mesh"`           // id of the mesh, hex
	Join   []string `json:"join,omitempty"` // the join list, host:port
	Config string   `json:"config"`         // the file to edit
	// NameTaken says that another node of the mesh has the same name.
	NameTaken bool `json:"name_taken,omitempty"`
}

// SetupOptions say what to install or remove.
type SetupOptions struct {
	Dir    string    // absolute
	What   string    // "fail2ban", "systemd", "prometheus" or, with Print, "grafana"; "" with Remove = all
	Print  bool      // write the files to Out instead
	Remove bool      // remove what was installed
	Out    io.Writer // for Print
}

// SetupResult is what SetUp has done.
type SetupResult struct {
	Done []string // one per file, such as "wrote /etc/fail2ban/action.d/meshban.conf"
	Next []string // what is left to do, as hints
}
