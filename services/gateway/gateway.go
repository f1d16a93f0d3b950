package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// Backends are what the gateway stands in front of. A Local serves both when they share the process.
type Backends struct {
	Ingest grpc.ClientConnInterface // serves MessageService
	Query  grpc.ClientConnInterface // serves AlertService, TrendService, ConversationService and UserService
	Checks []Check                  // what health is made of

	// Accepted returns how many messages were ever accepted, from which the live page shows their rate. nil: the page shows none.
	Accepted func(context.Context) (int64, error)
}

// Gateway answers HTTP requests. It starts nothing; serve its Handler.
type Gateway struct {
	cfg     Config
	tel     telemetry.T
	routes  []*route
	mux     *runtime.ServeMux
	query   grpc.ClientConnInterface
	health  *health
	metrics metrics
	pages   map[string]page
	origins originRules
	proxies []netip.Prefix
	hosts   map[string]bool
	handler http.Handler
}

// New returns a gateway in front of back.
func New(cfg Config, back Backends, tel telemetry.T) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	all, err := routes()
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		cfg: cfg, tel: tel, routes: all, query: back.Query, metrics: newMetrics(tel),
		health: newHealth(cfg, back, tel), hosts: map[string]bool{},
	}
	for _, h := range cfg.Hosts {
		g.hosts[strings.ToLower(h)] = true
	}
	for _, p := range cfg.TrustedProxies {
		prefix, err := parsePrefix(p)
		if err != nil {
			return nil, err
		}
		g.proxies = append(g.proxies, prefix)
	}
	if g.origins, err = newOriginRules(cfg.CORSOrigins); err != nil {
		return nil, err
	}
	if g.pages, err = pages(cfg.Version); err != nil {
		return nil, err
	}
	if err := g.registerREST(back); err != nil {
		return nil, err
	}
	g.handler = otelhttp.NewHandler(http.HandlerFunc(g.serve), "http",
		otelhttp.WithTracerProvider(tracers{tracer: tel.Tracer}),
		otelhttp.WithMeterProvider(meters{meter: tel.Meter}),
		otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithFilter(isObserved),
		otelhttp.WithSpanNameFormatter(spanName),
	)
	return g, nil
}

// Handler returns the handler of all paths. It is safe for concurrent use.
func (g *Gateway) Handler() http.Handler { return http.HandlerFunc(g.enter) }

func (g *Gateway) registerREST(back Backends) error {
	g.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonMarshaler{}),
		runtime.WithErrorHandler(g.muxError),
		runtime.WithRoutingErrorHandler(g.routingError),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithUnescapingMode(runtime.UnescapingModeAllCharacters),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithWriteContentLength(),
	)
	ctx := context.Background() // unused by the generated code: the connections are ours
	for _, err := range []error{
		apiv1.RegisterMessageServiceHandlerClient(ctx, g.mux, apiv1.NewMessageServiceClient(back.Ingest)),
		apiv1.RegisterAlertServiceHandlerClient(ctx, g.mux, apiv1.NewAlertServiceClient(back.Query)),
		apiv1.RegisterTrendServiceHandlerClient(ctx, g.mux, apiv1.NewTrendServiceClient(back.Query)),
		apiv1.RegisterConversationServiceHandlerClient(ctx, g.mux, apiv1.NewConversationServiceClient(back.Query)),
		apiv1.RegisterUserServiceHandlerClient(ctx, g.mux, apiv1.NewUserServiceClient(back.Query)),
	} {
		if err != nil {
			return fmt.Errorf("register REST routes: %w", err)
		}
	}
	return nil
}

// enter is the outermost step: a panic becomes an answer, and every answer gets what all have.
func (g *Gateway) enter(w http.ResponseWriter, r *http.Request) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
			panic(v)
		}
		g.tel.Log.ErrorContext(r.Context(), "handler panicked", "path", r.Pattern, "stack", string(debug.Stack()))
		g.fail(w, r, apierror.New(apierror.ReasonInternal, "internal error; the server's log says more"))
	}()
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	id := requestID(r)
	h.Set(requestIDHeader, id)
	r.Header.Set(requestIDHeader, id)
	g.handler.ServeHTTP(w, r)
}

// serve decides who answers.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	if err := g.checkHost(r); err != nil {
		g.refuse(w, r, err)
		return
	}
	path := r.URL.EscapedPath()
	found, segments := match(g.routes, path)
	page, isPage := g.pages[path]
	state, isHealth := healthPaths[path]
	verbs := []string{http.MethodGet, http.MethodHead}
	switch {
	case isPage:
		r.Pattern = path
	case isHealth:
		r.Pattern = path
	case len(found) > 0:
		r.Pattern = found[0].path
		verbs = verbsOf(found)
	default:
		g.refuse(w, r, notFound())
		return
	}
	if done, err := g.origins.apply(w, r, verbs); err != nil {
		g.refuse(w, r, err)
		return
	} else if done {
		return
	}
	allow := strings.Join(verbs, ", ")
	if !strings.Contains(", "+allow+",", ", "+r.Method+",") {
		w.Header().Set("Allow", allow)
		g.refuse(w, r, apierror.New(apierror.ReasonMethodNotAllowed, "method must be "+strings.Join(verbs, " or ")+", got "+shownName(r.Method)))
		return
	}
	switch {
	case isPage:
		page.ServeHTTP(w, r)
	case isHealth:
		g.health.answer(w, r, state)
	default:
		g.serveREST(w, r, found, segments)
	}
}

// verbsOf returns the verbs of routes that share a path. HEAD comes with GET, but not for streams, which have no end to be asked about.
func verbsOf(found []*route) []string {
	var verbs []string
	for _, f := range found {
		verbs = append(verbs, f.verb)
		if f.verb == http.MethodGet && !f.method.IsStreamingServer() {
			verbs = append(verbs, http.MethodHead)
		}
	}
	return verbs
}

func isObserved(r *http.Request) bool {
	_, isHealth := healthPaths[r.URL.Path]
	return !isHealth && strings.HasPrefix(r.URL.Path, "/api/") && !strings.HasSuffix(r.URL.Path, "/stream")
}

func spanName(_ string, r *http.Request) string {
	if r.Pattern == "" {
		return "HTTP"
	}
	return r.Method + " " + r.Pattern
}
