//go:build !linux

package hostinfo

import "time"

// find knows nothing outside Linux, where there is no firewall backend to lock anybody out with.
func (s *Sessions) find(time.Time) ([]session, error) { return nil, nil }
