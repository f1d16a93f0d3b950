package trend

import (
	"errors"
	"fmt"
	"time"
)

const (
	settle    = 10 * time.Second // without change, after which a window is closed
	grace     = 60 * time.Second // beyond the window, in which a straggler still corrects it
	longest   = 10 * time.Minute // window: messages must be remembered for that long
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
	Window   time.Duration `yaml:"window"`    // length of a window; a multiple of Advance, at most 10m
	Advance  time.Duration `yaml:"advance"`   // length of a pane: windows begin this far apart; whole seconds, at least 1s
	MinChars int           `yaml:"min_chars"` // least characters of a word, after folding; 1 to 64
	MinCount int           `yaml:"min_count"` // least uses of a word in a window to be announced; at least 1
	Top      int           `yaml:"top"`       // words announced for each window and Ranker; at least 1
	// Bounds of memory, in words counted once for each pane they are used in. Beyond the first the rarest words of the pane go, and it is approximate;
	// beyond the others the panes that were not touched for longest.
	PaneTerms    int `yaml:"pane_terms"`    // of one pane in a Counter; at least 1,000
	CounterTerms int `yaml:"counter_terms"` // of all panes in a Counter; at least PaneTerms. Each costs about 120 bytes
	RankerTerms  int `yaml:"ranker_terms"`  // of all panes in a Ranker; at least PaneTerms. Each costs about 40 bytes, and 180 while it may change
}

// DefaultConfig returns windows of two minutes that begin every 30 s.
func DefaultConfig() Config {
	return Config{
		Window: 2 * time.Minute, Advance: 30 * time.Second,
		MinChars: 4, MinCount: 3, Top: 100,
		PaneTerms: 200_000, CounterTerms: 300_000, RankerTerms: 1_000_000,
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	if c.Advance < time.Second || c.Advance%time.Second != 0 {
		errs = append(errs, fmt.Errorf("trend.advance: got %v, want whole seconds, at least 1s", c.Advance))
	} else if c.Window < c.Advance || c.Window%c.Advance != 0 || c.Window > longest {
		errs = append(errs, fmt.Errorf("trend.window: got %v, want a multiple of trend.advance (%v), at most %v", c.Window, c.Advance, longest))
	}
	atLeast := func(name string, got, want int) {
		if got < want {
			errs = append(errs, fmt.Errorf("trend.%s: got %d, want at least %d", name, got, want))
		}
	}
	if c.MinChars < 1 || c.MinChars > maxChars {
		errs = append(errs, fmt.Errorf("trend.min_chars: got %d, want 1 to %d", c.MinChars, maxChars))
	}
	atLeast("min_count", c.MinCount, 1)
	atLeast("top", c.Top, 1)
	atLeast("pane_terms", c.PaneTerms, 1_000)
	atLeast("counter_terms", c.CounterTerms, c.PaneTerms)
	atLeast("ranker_terms", c.RankerTerms, c.PaneTerms)
	return errors.Join(errs...)
}

// Keep returns how long after the log time of the last record that touched it a pane can still be corrected. A memory of messages that is handed to a
// Counter must keep them at least as long.
func (c Config) Keep() time.Duration { return c.Window + grace }

// remembered is how long a pane is, in milliseconds: Keep, and 2 s because a memory of messages forgets in whole seconds. A pane must not be forgotten
// while a message in it would still be known as a copy.
func remembered(c Config) int64 { return (c.Keep() + 2*time.Second).Milliseconds() }

// KeepTotals returns how long after its log time a record of totals must be read again after a restart: the past that a window is
// measured against, and Keep.
func (c Config) KeepTotals() time.Duration { return baselines*c.Window + c.Keep() }

// panes returns the number of panes in a window.
func (c Config) panes() int64 { return int64(c.Window / c.Advance) }
