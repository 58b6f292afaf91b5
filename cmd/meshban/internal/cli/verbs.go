package cli

// verbs lists the commands in the order of the help.
func (c *command) verbs() []*verb {
	return []*verb{
		c.agentVerb(), c.initVerb(), c.inviteVerb(), c.joinVerb(), c.revokeVerb(), c.forgetVerb(), c.rotateVerb(), c.caVerb(),
		c.banVerb(), c.unbanVerb(), c.allowVerb(),
		c.listVerb(), c.whyVerb(), c.membersVerb(), c.statusVerb(), c.watchVerb(), c.auditVerb(),
		c.heldVerb(),
		c.importVerb(), c.exportVerb(),
		c.setupVerb(), c.teardownVerb(),
		c.completionVerb(), c.versionVerb(), c.helpVerb(), c.wordsVerb(),
	}
}
