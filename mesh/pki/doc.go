// Package pki holds the identities of a mesh: a node's key, what the mesh's authority says about nodes, and the secrets
// of members, with their files.
//
// No other package needs a private key: an identity signs, proves itself to TLS, and opens what is sealed for it. The
// authority speaks in records, each a signed frame: a certificate makes a node a member and bounds what it may say; a
// revocation shuts it out for good; a grant hands out a gossip key, sealed for each node. What is decoded has exactly
// one encoding. A key file has mode 0600, is on disk when the function that stores it returns, and is replaced whole or
// not at all.
package pki
