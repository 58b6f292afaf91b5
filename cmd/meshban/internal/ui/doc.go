// Package ui is the page that shows a node and its mesh to people: HTML made here, one style sheet, one script that only
// moves what the page shows anyway.
//
// It promises that what peers say is text, never markup; that a page changes something only if whoever asks may, came
// through Proxy, and sends a form of this agent; that reading is bounded; and that it keeps no state but a random key.
//
// Whoever forwards the control socket (ssh -L) gives each user of that machine what he may do himself. So requests that
// did not come through Proxy only read. Proxy is what `meshban dashboard` runs: it admits the browser that opened its
// one-time address, and marks that browser's requests. The api listener marks those of a browser with a key.
package ui
