package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/earshot/earshot/services/internal/apierror"
)

const requestIDHeader = "X-Request-Id"

// requestID returns the client's id of the request if it is a plain word, and a new one otherwise.
func requestID(r *http.Request) string {
	const most = 128
	if id := r.Header.Get(requestIDHeader); id != "" && len(id) <= most && strings.IndexFunc(id, notPlain) < 0 {
		return id
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func notPlain(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._:-", r)
}

// incomingHeader is the list of headers that reach the services. Traces go their own way: in the context, or by otelgrpc.
func incomingHeader(name string) (string, bool) {
	return strings.ToLower(name), name == requestIDHeader
}

// checkHost refuses names that are not ours: a page of a foreign site whose name was pointed at this address would count as ours otherwise (DNS
// rebinding). An address can not be pointed elsewhere.
func (g *Gateway) checkHost(r *http.Request) error {
	if g.hosts["*"] {
		return nil
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || g.hosts[host] {
		return nil
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return nil
	}
	return apierror.Field("Host", host, "localhost, an IP address, or one of the setting gateway.hosts", apierror.ReasonPermissionDenied)
}

// forgetForgedProxies removes what a client says about where it comes from, unless it is a proxy we trust.
func (g *Gateway) forgetForgedProxies(r *http.Request) {
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		addr := at.Addr().Unmap()
		if slices.ContainsFunc(g.proxies, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return
		}
	}
	r.Header.Del("X-Forwarded-For")
	r.Header.Del("X-Forwarded-Host")
}

// originRules say what pages of other origins may do: nothing, but for those on the list. A page can send simple requests anywhere without asking
// first, so writes from other origins are refused here and not only hidden from the page.
type originRules struct {
	allowed map[string]bool
	cross   *http.CrossOriginProtection
}

func newOriginRules(origins []string) (originRules, error) {
	o := originRules{allowed: map[string]bool{}, cross: http.NewCrossOriginProtection()}
	for _, origin := range origins {
		o.allowed[origin] = true
		if err := o.cross.AddTrustedOrigin(origin); err != nil {
			return o, fmt.Errorf("gateway.cors_origins: %w", err)
		}
	}
	return o, nil
}

// apply sets the CORS headers of an answer. It returns true when it has answered: a preflight.
func (o originRules) apply(w http.ResponseWriter, r *http.Request, verbs []string) (bool, error) {
	h := w.Header()
	if len(o.allowed) > 0 {
		h.Add("Vary", "Origin")
	}
	origin := r.Header.Get("Origin")
	if o.allowed[origin] {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", requestIDHeader+", Retry-After")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", strings.Join(verbs, ", "))
			h.Set("Access-Control-Allow-Headers", "Content-Type, Accept, Last-Event-ID, Idempotency-Key, "+requestIDHeader+", Traceparent, Tracestate")
			h.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return true, nil
		}
	}
	if err := o.cross.Check(r); err != nil {
		return false, apierror.Field("Origin", origin, "this server's own, or one of the setting gateway.cors_origins", apierror.ReasonPermissionDenied)
	}
	return false, nil
}
