package trend

import (
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for setting, spoil := range map[string]func(*Config){
		"trend.window":        func(c *Config) { c.Window = 45 * time.Second },
		"trend.advance":       func(c *Config) { c.Advance = 1500 * time.Millisecond },
		"trend.min_chars":     func(c *Config) { c.MinChars = 65 },
		"trend.min_count":     func(c *Config) { c.MinCount = 0 },
		"trend.top":           func(c *Config) { c.Top = 0 },
		"trend.pane_terms":    func(c *Config) { c.PaneTerms = 1 },
		"trend.counter_terms": func(c *Config) { c.CounterTerms = 5_000 },
		"trend.ranker_terms":  func(c *Config) { c.RankerTerms = 0 },
	} {
		c := DefaultConfig()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), setting+": got ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", setting, err)
		}
	}
	if err := (Config{}).Validate(); err == nil || strings.Count(err.Error(), "\n") < 4 {
		t.Errorf("not every fault at once: %v", err)
	}
}
