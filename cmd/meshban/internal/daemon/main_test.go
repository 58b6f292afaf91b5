package daemon

import (
	"os"
	"testing"

	"github.com/meshban/meshban/test/parallel"
)

func TestMain(m *testing.M) { os.Exit(parallel.Main(m, 24)) }
