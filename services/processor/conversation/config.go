package conversation

import (
	"errors"
	"fmt"
	"time"
)

const (
	settle = 10 // seconds of log time without change after which a window is closed
	repeat = 5  // least seconds of log time between two provisional records of a window
	grace  = 60 // seconds beyond the window in which a straggler still corrects it
	ahead  = 10 * time.Minute
)

// Config says what a window is. Start from DefaultConfig.
type Config struct {
	Window time.Duration `yaml:"window"` // what a record's numbers cover; a multiple of Step, at most 2m
	Step   time.Duration `yaml:"step"`   // distance between the ends of windows; whole seconds, at least 1s
}

// DefaultConfig returns windows of 30 s that end every 5 s.
func DefaultConfig() Config { return Config{Window: 30 * time.Second, Step: 5 * time.Second} }

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	if c.Step < time.Second || c.Step%time.Second != 0 {
		errs = append(errs, fmt.Errorf("conversation.step: got %v, want whole seconds, at least 1s", c.Step))
	} else if c.Window < c.Step || c.Window%c.Step != 0 || c.Window > 2*time.Minute {
		errs = append(errs, fmt.Errorf("conversation.window: got %v, want a multiple of conversation.step (%v), at most 2m", c.Window, c.Step))
	}
	return errors.Join(errs...)
}

// Keep returns how long after its log time a message must be remembered, at least, by the memory that is handed to a Tracker.
func (c Config) Keep() time.Duration { return c.Window + grace*time.Second }
