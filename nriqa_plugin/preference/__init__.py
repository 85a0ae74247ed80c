"""What people prefer, and which judges and losses agree with them: votes, screening, JND scales, opinions."""
