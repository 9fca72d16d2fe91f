package server

import "os"

// openRecords opens what a server keeps beside its keys: audit, revocations and the
// admin token. An error is one line that says what to change.
func (s *Server) openRecords() error {
	token, err := s.cfg.Admin.token()
	if err != nil {
		return err
	}
	s.adminToken.Store(&token)
	_, missing := os.Lstat(s.cfg.RevocationsFile)
	if s.revoked, err = openRevocations(s.cfg.RevocationsFile); err != nil {
		return err
	}
	if s.cfg.RevocationsFile != "" && missing != nil {
		s.log.Warn("revocations_file was not there and is made now: nothing is revoked")
	}
	s.keys.revoked = s.revoked
	s.audit, err = newAuditor(s.cfg.Audit, s.log)
	return err
}
