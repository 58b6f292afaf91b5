// Package hook tells people and programs what happens, by webhooks and commands.
//
// It promises that telling never delays a ban: Tell puts an event into one bounded queue and drops it, counted, if that is
// full. Run gathers events into messages, one per hook and config.Hook.Every, with at most AtMost events each. Each hook
// sends by itself, one message at a time, with bounded time and tries, so that a slow receiver holds up no other. What
// peers say is data in every form: it can neither mention people nor format. URLs and headers appear in no error and no log.
//
// What waits when the agent stops is not sent.
package hook
