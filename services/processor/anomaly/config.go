// Package anomaly finds senders with too many messages in a short time.
//
//	messages by sender --> Detector --> anomaly-alerts
//
// A sender's messages are ordered by (created_at, message_id), across conversations. A message crosses when at least Threshold of them, itself and those
// before it, were created in the Span that ends with it. Crossings at most a Span apart are one episode, known by its first crossing, the trigger.
//
// Messages come in any order, so what is known of an episode may change: it grows, an earlier trigger is found, two episodes turn out to be one. Each such
// change is announced as it is found; the watermark tells when no more of them are expected. What is announced in the end depends on the messages
// only, not on the order in which they came, nor on restarts.
//
// The package is pure: its clock is the watermark it is given, and all times are milliseconds since the epoch. A Detector is not safe for concurrent use.
package anomaly

import (
	"errors"
	"fmt"
	"time"
)

// Config is the rule. Start from DefaultConfig.
type Config struct {
	Threshold int           `yaml:"threshold"` // messages in one span that make an episode; 2 to 1000
	Span      time.Duration `yaml:"span"`      // length of the window; whole seconds, 1s to 1h
}

// DefaultConfig is 8 messages in 60 seconds.
func DefaultConfig() Config { return Config{Threshold: 8, Span: time.Minute} }

// Validate names every setting that is out of bounds.
func (c Config) Validate() error {
	var errs []error
	if c.Threshold < 2 || c.Threshold > 1000 {
		errs = append(errs, fmt.Errorf("anomaly.threshold: got %d, want 2 to 1000 messages", c.Threshold))
	}
	if c.Span < time.Second || c.Span > time.Hour || c.Span%time.Second != 0 {
		errs = append(errs, fmt.Errorf("anomaly.span: got %s, want whole seconds from 1s to 1h", c.Span))
	}
	return errors.Join(errs...)
}

// rule names the rule and its parameters; it goes into every alert_id. A change of what an episode is changes the number after "rate/".
func (c Config) rule() string {
	return fmt.Sprintf("rate/1:%d/%ds", c.Threshold, int64(c.Span/time.Second))
}
