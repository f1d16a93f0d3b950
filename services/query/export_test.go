package query

// OpenStreams returns how many streams the feeds serve.
func (s *Service) OpenStreams() int {
	return s.alerts.open() + s.trends.open() + s.conversations.open() + s.users.open()
}

func (f *feed[T]) open() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.subs)
}
