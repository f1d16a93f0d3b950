package gateway

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"net/http"
	"path"
	"strconv"
)

//go:embed assets
var assets embed.FS

// policy lets pages load what this server has and nothing else; no script or style within the HTML runs.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// page is a file of the console, held in memory.
type page struct {
	media string
	body  []byte
	etag  string
}

// pages returns what is served beside the API, by path.
func pages(version string) (map[string]page, error) {
	all := map[string]page{}
	for at, file := range map[string]string{
		"/":                   "index.html",
		"/docs":               "docs.html",
		"/assets/live.js":     "live.js",
		"/assets/docs.js":     "docs.js",
		"/assets/style.css":   "style.css",
		"/assets/favicon.svg": "favicon.svg",
		"/favicon.ico":        "favicon.svg",
	} {
		b, err := assets.ReadFile("assets/" + file)
		if err != nil {
			return nil, fmt.Errorf("read page: %w", err)
		}
		all[at] = newPage(mediaOf[path.Ext(file)], b)
	}
	doc, err := openAPI(version)
	if err != nil {
		return nil, err
	}
	all["/openapi.json"] = newPage(mediaJSON, doc)
	return all, nil
}

var mediaOf = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

func newPage(media string, b []byte) page {
	sum := sha256.Sum256(b)
	return page{media: media, body: b, etag: `"` + hex.EncodeToString(sum[:8]) + `"`}
}

// ServeHTTP answers GET and HEAD; browsers ask each time and are mostly told that nothing changed.
func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", p.etag)
	if r.Header.Get("If-None-Match") == p.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", p.media)
	h.Set("Content-Length", strconv.Itoa(len(p.body)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(p.body) // the client left
}
