package trend

import (
	_ "embed" // stopwords.txt
	"strings"
	"sync"
)

//go:embed stopwords.txt
var stopText string

// stopWords returns the words that are too common to be a trend.
var stopWords = sync.OnceValue(func() map[string]bool {
	stop := map[string]bool{}
	for line := range strings.Lines(stopText) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		for _, w := range strings.Fields(line) {
			stop[w] = true
		}
	}
	return stop
})
