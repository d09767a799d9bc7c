package ioc

import (
	"encoding/json"
	"net/http"
)

// The protocol, HTTP/1.1 on a unix socket; frozen at v1:
//
//	POST   /v1/extents         createRequest → 201 createResponse
//	GET    /v1/extents         → 200 listResponse
//	GET    /v1/extents/{name}  → 200 Extent
//	PUT    /v1/extents/{name}  growRequest → 204
//	DELETE /v1/extents/{name}  → 204
//	GET    /v1/status          → 200 Status
//
// Every failure is a wireError; its code alone says which error it is. The HTTP
// status is for people who use curl.
const (
	extentsPath = "/v1/extents"
	statusPath  = "/v1/status"

	maxRequest  = 4 << 10 // bytes of a request's body
	maxResponse = 4 << 20 // bytes of a response's body: MaxExtents of them fit
	maxHeader   = 8 << 10
	maxConns    = 64 // connections served at once; more wait
)

type createRequest struct {
	Name string `json:"name"`
	Size uint64 `json:"size"`
}

// growRequest says how long an extent is to be at least.
type growRequest struct {
	Size uint64 `json:"size"`
}

type createResponse struct {
	Path string `json:"path"`
}

type listResponse struct {
	Extents []Extent `json:"extents"`
}

type wireError struct {
	Code     Code   `json:"code"`
	Object   string `json:"object"`
	Detail   string `json:"detail,omitempty"`
	Recorded uint64 `json:"recorded,omitempty"`
	Actual   uint64 `json:"actual,omitempty"`
}

// toWire keeps the class of err, and of its causes only the text.
func toWire(err error) wireError {
	w := wireError{Code: CodeOf(err), Object: "IO container", Detail: err.Error()}
	if e, ok := err.(*Error); ok {
		w.Object, w.Detail, w.Recorded, w.Actual = e.Object, e.Detail, e.Recorded, e.Actual
		if e.Cause != nil {
			w.Detail += ": " + e.Cause.Error()
		}
	}
	return w
}

func (w wireError) toError() error {
	if w.Code == CodeOK {
		return &Error{Code: CodeProtocol, Object: "IO container", Detail: "a failure without a code"}
	}
	return &Error{Code: w.Code, Object: w.Object, Detail: w.Detail, Recorded: w.Recorded, Actual: w.Actual}
}

var httpStatus = map[Code]int{
	CodeInvalid:     http.StatusBadRequest,
	CodeProtocol:    http.StatusBadRequest,
	CodeNotFound:    http.StatusNotFound,
	CodeExists:      http.StatusConflict,
	CodeNoSpace:     http.StatusInsufficientStorage,
	CodeForeign:     http.StatusServiceUnavailable,
	CodeBusy:        http.StatusServiceUnavailable,
	CodeUnavailable: http.StatusServiceUnavailable,
}

func writeError(w http.ResponseWriter, err error) {
	we := toWire(err)
	status, ok := httpStatus[we.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	writeJSON(w, status, we)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A failed write means the peer left; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(v)
}
