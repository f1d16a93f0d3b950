package embedded

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

const (
	barEvery  = 100 * time.Millisecond // on a terminal
	lineEvery = 5 * time.Second        // elsewhere
)

// progress shows how far a task is: a bar on a terminal, lines elsewhere.
type progress struct {
	out   io.Writer
	what  string
	total int64        // bytes
	now   func() int64 // bytes done
	began time.Time
	quit  chan struct{}
	wg    sync.WaitGroup
	bars  *mpb.Progress // nil if out is no terminal
	bar   *mpb.Bar
}

// startProgress begins to show a task of total bytes on out, asking now how many
// are done. Call stop at its end.
func startProgress(out io.Writer, what string, total int64, now func() int64) *progress {
	p := &progress{out: out, what: what, total: total, now: now, began: time.Now(), quit: make(chan struct{})}
	every := lineEvery
	if hasWidth(out) {
		every = barEvery
		p.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(40))
		p.bar = p.bars.AddBar(total,
			mpb.PrependDecorators(decor.Name(what+" ")),
			mpb.AppendDecorators(decor.CountersKiloByte("% .0f of % .0f "), decor.Elapsed(decor.ET_STYLE_GO)))
	} else {
		p.line("")
	}
	p.wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-p.quit:
				return
			case <-tick.C:
				p.show()
			}
		}
	})
	return p
}

// hasWidth says that out is a terminal a bar can be drawn on.
func hasWidth(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0
}

func (p *progress) show() {
	if p.bar != nil {
		p.bar.SetCurrent(min(p.now(), p.total-1)) // at the total mpb takes it for done
		return
	}
	p.line(fmt.Sprintf(": %d MB after %.0f s", p.now()/1e6, time.Since(p.began).Seconds()))
}

// stop ends the showing; ok says that the task is done.
func (p *progress) stop(ok bool) {
	close(p.quit)
	p.wg.Wait()
	switch {
	case p.bar == nil && ok:
		p.line(fmt.Sprintf(": done after %.1f s", time.Since(p.began).Seconds()))
	case p.bar != nil && ok:
		p.bar.SetCurrent(p.total)
		p.bars.Wait()
	case p.bar != nil:
		p.bar.Abort(false)
		p.bars.Wait()
	}
}

func (p *progress) line(rest string) {
	_, _ = fmt.Fprintf(p.out, "%s (%d MB)%s\n", p.what, p.total/1e6, rest)
}
