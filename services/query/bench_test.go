package query_test

import (
	"sync"
	"testing"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/query"
	"google.golang.org/grpc"
)

// BenchmarkFanOut sends one alert to 1,000 subscribers over gRPC on loopback, clients included.
func BenchmarkFanOut(b *testing.B) {
	kcfg := kafkatest.Start(b)
	p := newProducer(b, kcfg)
	s := serve(b, query.DefaultConfig(), kcfg)
	const subscribers = 1000
	var conn *grpc.ClientConn
	listeners := make([]*listener, subscribers)
	for i := range listeners {
		if i%100 == 0 {
			conn = dial(b, s)
		}
		listeners[i] = listen(b, conn, &apiv1.StreamAlertsRequest{})
	}
	started := time.Now()
	for n := 0; b.Loop(); n++ {
		produceAlerts(b, p, kcfg, 1, n, n+1)
		var all sync.WaitGroup
		for _, l := range listeners {
			all.Go(func() {
				for len(l.seen) <= n {
					if _, err := l.recv(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	b.ReportMetric(float64(b.N*subscribers)/time.Since(started).Seconds(), "frames/s")
}
