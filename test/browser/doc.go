// Package browser opens the page of a real node in Debian's Chromium and uses it as people would: it searches, lifts a ban
// and sees by packets that it is lifted, follows events, runs a drill, with a mouse, a keyboard, a phone and without
// JavaScript, and attacks it as other web pages would.
//
// checks.js has what is checked and people.js what that needs: playwright-core drives Chromium, axe-core judges whether
// everybody can use a screen. `bash test/run browser` fetches both and runs the tests.
//
//	go test -tags netns ./test/browser -browser.shots=/tmp/shots  also makes pictures of every screen
package browser
