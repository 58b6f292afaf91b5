//go:build !race && !long

package mesh

// sideBySide is whether bubbles run beside other tests.
const sideBySide = true
