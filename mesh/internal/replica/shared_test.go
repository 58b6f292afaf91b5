package replica

import "github.com/meshban/meshban/mesh/internal/meshtest"

var (
	simStart  = meshtest.Start
	signers   = meshtest.Signers
	testFrame = meshtest.Frame
)
