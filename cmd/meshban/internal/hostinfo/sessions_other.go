//go:build !linux

package hostinfo

import "time"

// find returns nothing outside Linux, where no firewall backend could lock anybody out.
func (s *Sessions) find(time.Time) ([]session, error) { return nil, nil }
