package cli

import (
	"context"
	"net"
	"strconv"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// readPorts replaces service names in a port list with numbers, using this machine's /etc/services; the agent checks
// the rest.
func readPorts(s string) (string, error) {
	items := strings.Split(s, ",")
	for i, item := range items {
		item = strings.TrimSpace(item)
		items[i] = item
		name, proto, _ := strings.Cut(item, "/")
		if name == "" || name[0] >= '0' && name[0] <= '9' || strings.EqualFold(name, "all") || strings.EqualFold(name, "any") {
			continue
		}
		port, err := lookupPort(name, proto)
		if err != nil {
			return "", &config.Error{Problem: strconv.Quote(name) + " is no service of this machine", Remedy: "write its number, such as 22/tcp"}
		}
		items[i] = strconv.Itoa(port)
		if proto != "" {
			items[i] += "/" + proto
		}
	}
	return strings.Join(items, ","), nil
}

func lookupPort(name, proto string) (int, error) {
	var r net.Resolver
	if proto != "" {
		return r.LookupPort(context.Background(), proto, name)
	}
	port, err := r.LookupPort(context.Background(), "tcp", name)
	if err != nil {
		return r.LookupPort(context.Background(), "udp", name)
	}
	return port, nil
}
