package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/earshot/earshot/gen"
)

type object = map[string]any

// openAPI returns the OpenAPI v2 document: what buf wrote from the protos, with what protos can not say: health, the formats of streams, headers, errors.
func openAPI(version string) ([]byte, error) {
	var doc struct {
		Swagger     string                     `json:"swagger"`
		Info        object                     `json:"info"`
		BasePath    string                     `json:"basePath"`
		Tags        []object                   `json:"tags"`
		Consumes    []string                   `json:"consumes"`
		Produces    []string                   `json:"produces"`
		Paths       map[string]object          `json:"paths"`
		Definitions map[string]json.RawMessage `json:"definitions"` // as written: fields keep their order
	}
	if err := json.Unmarshal(gen.OpenAPI, &doc); err != nil {
		return nil, fmt.Errorf("read the generated OpenAPI document: %w", err)
	}
	doc.BasePath = "/" // the server it was loaded from
	doc.Info = object{
		"title":   "Earshot",
		"version": version,
		"description": "Send chat messages and read receipts; hear within milliseconds who is spamming, what is trending and how conversations are doing.\n" +
			"JSON has snake_case names, and unknown or repeated fields are refused. Errors are google.rpc.Status objects with a reason.\n" +
			"Every answer has an X-Request-Id: the request's own, or a new one.",
		"license": object{"name": "MIT"},
	}
	for at, verbs := range doc.Paths {
		for verb, op := range verbs {
			op, ok := op.(object)
			if !ok {
				continue
			}
			describe(at, verb, op)
		}
	}
	slices.SortStableFunc(doc.Tags, func(a, b object) int { return tagRank(a) - tagRank(b) })
	doc.Tags = append(doc.Tags, object{"name": healthTag, "description": "Whether messages can be sent, and what else is well."})
	maps.Copy(doc.Paths, healthOperations())
	for name, d := range extraDefinitions() {
		b, err := json.Marshal(d)
		if err != nil {
			return nil, fmt.Errorf("write the OpenAPI document: %w", err)
		}
		doc.Definitions[name] = b
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	return b, nil
}

const healthTag = "Health"

// tagRank puts what people begin with first.
func tagRank(tag object) int {
	if tag["name"] == "MessageService" {
		return 0
	}
	return 1
}

func describe(at, verb string, op object) {
	responses, _ := op["responses"].(object)
	if responses != nil {
		responses["default"] = errorResponse("Why it failed: code, reason, and the fields at fault.")
	}
	parameters, _ := op["parameters"].([]any)
	switch {
	case strings.HasSuffix(at, "/stream"):
		name, _ := op["operationId"].(string)
		_, name, _ = strings.Cut(name, "_")
		op["produces"] = []string{mediaSSE, mediaNDJSON}
		responses["200"] = object{
			"description": "With Accept: text/event-stream, events whose data is one line of JSON, " + example(at) + ", and whose id is the resume token; event types heartbeat and error beside the " +
				"unnamed ones. Otherwise NDJSON: the same object per line, with resume_token beside it. A last frame with error, a Status, says why there are no more.",
			"schema": object{"$ref": "#/definitions/" + name + "Response"},
		}
		parameters = append(parameters, header("Last-Event-ID", "The id of the last event that was heard, as browsers send when they come back. Wins over resume_token and since."))
	case verb == "post" && op["operationId"] == "MessageService_SendMessage":
		parameters = append(parameters, header("Idempotency-Key", "The same as message_id, for a body that has none."))
	}
	op["parameters"] = parameters
}

// example is a frame in short.
func example(at string) string {
	what := strings.TrimSuffix(strings.Split(at, "/")[3], "s")
	return `{"` + what + `":{…}}`
}

func header(name, description string) object {
	return object{"name": name, "in": "header", "type": "string", "required": false, "description": description}
}

func errorResponse(description string) object {
	return object{"description": description, "schema": object{"$ref": "#/definitions/Status"}}
}

func healthOperations() map[string]object {
	op := func(id, summary, ok, bad string, full bool) object {
		schema := object{"$ref": "#/definitions/Health"}
		responses := object{"200": object{"description": ok, "schema": schema}}
		if bad != "" {
			responses["503"] = object{"description": bad, "schema": schema}
		}
		if full {
			responses["200"].(object)["examples"] = object{mediaJSON: object{
				"status":            stateOK,
				"dependencies":      object{"kafka": object{"state": stateOK}, "clickhouse": object{"state": stateOK}},
				"messages_accepted": 9709,
			}}
		}
		return object{"get": object{"operationId": id, "summary": summary, "tags": []string{healthTag}, "responses": responses, "parameters": []any{}}}
	}
	return map[string]object{
		"/api/v1/health": op("Health", "A state per dependency.", "Messages are accepted: status is ok, or degraded while something else is away.", "No message can be accepted.", true),
		"/readyz":        op("Ready", "Whether messages can be accepted, for load balancers.", "They can.", "They can not.", false),
		"/healthz":       op("Alive", "Whether the process lives, for supervisors.", "It does.", "", false),
	}
}

func extraDefinitions() map[string]object {
	text := func(d string) object { return object{"type": "string", "description": d} }
	return map[string]object{
		"Health": {
			"type":        "object",
			"description": "Health says what works.",
			"properties": object{
				"status":            object{"type": "string", "enum": []string{stateOK, stateDegraded, stateUnavailable}, "description": "ok; degraded: messages are accepted, something else is away; unavailable."},
				"dependencies":      object{"type": "object", "description": "By name.", "additionalProperties": object{"$ref": "#/definitions/DependencyHealth"}},
				"messages_accepted": object{"type": "integer", "format": "int64", "description": "Messages accepted so far by the whole mesh; absent when unknown."},
				"checked_at":        object{"type": "string", "format": "date-time", "description": "When the dependencies were asked."},
			},
		},
		"DependencyHealth": {
			"type":        "object",
			"description": "DependencyHealth is the state of one dependency.",
			"properties":  object{"state": object{"type": "string", "enum": []string{stateOK, stateUnavailable}, "description": "Whether it answers."}, "detail": text("What is wrong, unless ok.")},
		},
		"Status": {
			"type":        "object",
			"description": "Status is a google.rpc.Status: every error of this API, over REST and gRPC alike.",
			"properties": object{
				"code":    object{"type": "integer", "format": "int32", "description": "google.rpc.Code, such as 3 for INVALID_ARGUMENT."},
				"message": text("One line for people."),
				"details": object{"type": "array", "description": "ErrorInfo always; BadRequest and RetryInfo where they help.", "items": object{"$ref": "#/definitions/Any"}},
			},
			"example": object{
				"code": 3, "message": "content: must be 1 to 4,096 characters, got 0",
				"details": []any{
					object{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "FIELD_REQUIRED", "domain": "earshot", "metadata": object{}},
					object{"@type": "type.googleapis.com/google.rpc.BadRequest", "field_violations": []any{
						object{"field": "content", "description": "must be 1 to 4,096 characters, got 0", "reason": "FIELD_REQUIRED"},
					}},
				},
			},
		},
		"Any": {
			"type":                 "object",
			"description":          "Any is one detail; @type says which. google.rpc.ErrorInfo has reason (stable, for programs), domain and metadata; google.rpc.BadRequest has field_violations; google.rpc.RetryInfo has retry_delay.",
			"properties":           object{"@type": text("Kind of detail.")},
			"additionalProperties": true,
		},
	}
}
