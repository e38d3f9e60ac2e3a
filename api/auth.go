package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// guard lets through who may use an operation, and reads the body of those who
// may, unless the operation does that itself. An operation is guarded unless it
// says that it is open.
func (s *server) guard(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	r.Header.Del("Accept") // every answer is JSON, however the client spells its wishes
	asking, refused := s.authorize(ctx.Operation(), r)
	if refused != nil && refused.Status == http.StatusUnauthorized && takesPassword(ctx.Operation()) {
		refused.headers.Add("WWW-Authenticate", `Basic realm="mailcrane"`) // some send a password only when asked
	}
	if refused == nil {
		refused = s.checkOwner(r.Context(), asking, ctx.Operation(), ctx.Param("id"))
	}
	if refused == nil && r.Method == http.MethodPost {
		refused = prepareBody(ctx.Operation(), w, r)
	}
	var claimed *claim
	if refused == nil {
		claimed, refused = claimOf(ctx.Operation(), w, r)
	}
	if refused != nil {
		writeProblem(w, r, refused)
		return
	}
	ctx = huma.WithValue(ctx, callerKey{}, asking)
	if claimed != nil {
		ctx = huma.WithValue(ctx, claimKey{}, claimed)
	}
	next(ctx)
}

func prepareBody(op *huma.Operation, w http.ResponseWriter, r *http.Request) *problem {
	if takesPassword(op) {
		if !isMedia(r.Header.Get("Content-Type"), func(media string) bool { return media == "text/plain" || isJSON(media) }) {
			return newProblem(wrongMediaType, "Accept", "application/json, text/plain")
		}
		limitBody(w, r, maxBatchBody)
		return nil
	}
	if takesCSV(op) {
		if !isMedia(r.Header.Get("Content-Type"), func(media string) bool { return media == "text/csv" }) {
			return newProblem(wrongMediaType, "Accept", "text/csv").because("Send CSV and say so: -H 'Content-Type: text/csv' --data-binary @list.csv.")
		}
		limitBody(w, r, maxBatchBody)
		return nil
	}
	if op.RequestBody == nil && r.ContentLength == 0 && r.Header.Get("Content-Type") == "" {
		return nil // and where there is nothing, nothing need be said about it
	}
	if !isMedia(r.Header.Get("Content-Type"), isJSON) {
		return newProblem(wrongMediaType, "Accept", "application/json")
	}
	r.Header.Set("Content-Type", "application/json")
	if readsBody(op) {
		limitBody(w, r, maxBatchBody)
		return nil
	}
	limitBody(w, r, max(maxBody, op.MaxBodyBytes-1))
	return readBody(r)
}

func (s *server) authorize(op *huma.Operation, r *http.Request) (caller, *problem) {
	if isOpen(op) {
		return caller{}, nil
	}
	token, isBearer := bearerToken(r)
	if _, password, isBasic := r.BasicAuth(); isBasic && takesPassword(op) {
		token, isBearer = password, true
	}
	operator := s.tokenSum != nil && subtle.ConstantTimeCompare(sum(token), s.tokenSum) == 1
	switch {
	case isBearer && operator:
		return caller{}, nil
	case isBearer && strings.HasPrefix(token, "mc_"):
		return s.checkKey(op, r, token)
	case s.tokenSum == nil:
		return caller{}, checkLocal(r)
	case len(r.Header.Values("Authorization")) == 1:
		return caller{}, wrongToken()
	default:
		return caller{}, newProblem(unauthorized, "WWW-Authenticate", `Bearer realm="mailcrane"`)
	}
}

// openToAll marks an operation that needs no authorization, which is an empty
// requirement in OpenAPI.
func openToAll() []map[string][]string { return []map[string][]string{{}} }

func isOpen(op *huma.Operation) bool {
	return len(op.Security) == 1 && len(op.Security[0]) == 0
}

// sum hashes a token, so that a comparison takes the same time whatever the
// length of what a client has sent.
func sum(token string) []byte {
	hash := sha256.Sum256([]byte(token))
	return hash[:]
}

// takesPassword says whether op is for programs that cannot send a bearer token.
func takesPassword(op *huma.Operation) bool { return len(op.Security) == 2 }

// bearerToken is what a request shows to be let through (RFC 6750).
func bearerToken(r *http.Request) (token string, ok bool) {
	given := r.Header.Values("Authorization")
	if len(given) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	return strings.TrimSpace(token), strings.EqualFold(scheme, "Bearer")
}

func wrongToken() *problem {
	return newProblem(unauthorized, "WWW-Authenticate", `Bearer realm="mailcrane", error="invalid_token"`).because("This is not the API token, nor a key that is valid.")
}

// LocalOnly lets the requests of this machine through to h, by the same rules as
// the API without a token. The others get a problem document.
func LocalOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refused := checkLocal(r); refused != nil {
			writeProblem(w, r, refused)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// checkLocal wants a program on this machine. The address of the peer alone
// does not prove that: a proxy beside the daemon relays the requests of others,
// and so does a browser, whether a web page asks it to directly or under a name
// of its own that resolves to this machine (DNS rebinding).
func checkLocal(r *http.Request) *problem {
	if !isLoopbackPeer(r.RemoteAddr) || !isLoopbackHost(r.Host) || isForwarded(r.Header) {
		return newProblem(localOnly)
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return newProblem(crossOrigin)
	}
	return nil
}

func isLoopbackPeer(remoteAddr string) bool {
	peer, err := netip.ParseAddrPort(remoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

// isLoopbackHost judges the Host header field.
func isLoopbackHost(hostport string) bool {
	host := hostport
	if name, _, err := net.SplitHostPort(hostport); err == nil {
		host = name
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil && addr.Unmap().IsLoopback()
}

// isForwarded says whether a proxy has left its mark.
func isForwarded(header http.Header) bool {
	for _, name := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip"} {
		if len(header[name]) > 0 {
			return true
		}
	}
	return false
}
