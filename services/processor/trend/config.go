package trend

import (
	"errors"
	"fmt"
	"time"
)

const (
	settle    = 10 * time.Second // without change, after which a window is closed
	grace     = 60 * time.Second // beyond the window, in which a straggler still corrects it
	every     = 5 * time.Second  // between two totals of a Counter, and between two provisional rankings of a window
	heartbeat = time.Second      // longest silence of a Counter
	sweep     = 10 * time.Second // between two looks at what can be forgotten
	baselines = 15               // windows before a window that tell what is usual

	maxSenders = 64  // counted exactly; 64 says 64 or more
	maxChars   = 64  // of a word; what is longer is a key or an encoded file
	maxRecord  = 240 // KiB of one record of totals
)

// Config says what a trend is. Start from DefaultConfig.
type Config struct {
	Window     time.Duration `yaml:"window"`      // length of a window; a multiple of Advance, at most 1h
	Advance    time.Duration `yaml:"advance"`     // length of a pane: windows begin this far apart; whole seconds, at least 1s
	MinChars   int           `yaml:"min_chars"`   // least characters of a word, after folding; at least 1
	MinCount   int           `yaml:"min_count"`   // least uses of a word in a window to be announced; at least 1
	Top        int           `yaml:"top"`         // words announced for each window and Ranker; at least 1
	PaneTerms  int           `yaml:"pane_terms"`  // words of one pane in a Counter; the rarest go when there are more, and the pane is approximate
	TotalTerms int           `yaml:"total_terms"` // words of all panes together, in a Counter and in a Ranker; the panes longest unused go first
}

// DefaultConfig returns windows of two minutes that begin every 30 s.
func DefaultConfig() Config {
	return Config{
		Window: 2 * time.Minute, Advance: 30 * time.Second,
		MinChars: 4, MinCount: 3, Top: 100,
		PaneTerms: 200_000, TotalTerms: 1_500_000,
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	if c.Advance < time.Second || c.Advance%time.Second != 0 {
		errs = append(errs, fmt.Errorf("trend.advance: got %v, want whole seconds, at least 1s", c.Advance))
	} else if c.Window < c.Advance || c.Window%c.Advance != 0 || c.Window > time.Hour {
		errs = append(errs, fmt.Errorf("trend.window: got %v, want a multiple of trend.advance (%v), at most 1h", c.Window, c.Advance))
	}
	atLeast := func(name string, got, want int) {
		if got < want {
			errs = append(errs, fmt.Errorf("trend.%s: got %d, want at least %d", name, got, want))
		}
	}
	atLeast("min_chars", c.MinChars, 1)
	atLeast("min_count", c.MinCount, 1)
	atLeast("top", c.Top, 1)
	atLeast("pane_terms", c.PaneTerms, 1_000)
	atLeast("total_terms", c.TotalTerms, c.PaneTerms)
	return errors.Join(errs...)
}

// Keep returns how long after the log time of the last record that touched it a pane can still be corrected. A memory of messages that is handed to a
// Counter must keep them at least as long.
func (c Config) Keep() time.Duration { return c.Window + grace }

// remembered is how long a pane is, in milliseconds: Keep, and 2 s because a memory of messages forgets in whole seconds. A pane must not be forgotten
// while a message in it would still be known as a copy.
func remembered(c Config) int64 { return (c.Keep() + 2*time.Second).Milliseconds() }

// Baseline returns how much of the past a window is measured against.
func (c Config) Baseline() time.Duration { return baselines * c.Window }

// KeepTotals returns how long after its log time a record of totals must be read again after a restart.
func (c Config) KeepTotals() time.Duration { return c.Baseline() + c.Keep() }

// panes returns the number of panes in a window.
func (c Config) panes() int64 { return int64(c.Window / c.Advance) }
