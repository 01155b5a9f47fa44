package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

const (
	checkpointModel = "MODEL_PLACEHOLDER_M50"
	attemptsMax     = 3
	retryPause      = 150 * time.Millisecond
)

var enumName = regexp.MustCompile(`^MODEL_[A-Z0-9_]+$`)

// modelOf reads the model of a message: an enum by name or number, never the provider's own string.
func modelOf(request object) (string, *rpcError) {
	planner := at(request, "cascadeConfig", "plannerConfig")
	for _, value := range []any{at(planner, "requestedModel", "model"), at(planner, "requestedModel", "alias"), at(planner, "planModel")} {
		switch model := value.(type) {
		case string:
			if !enumName.MatchString(model) {
				return "", rpcErrorf("invalid_argument", fmt.Sprintf("unmarshal into message: invalid value for enum field model: %q", model))
			}
			return model, nil
		case float64:
			if model < 1000 {
				return "", rpcErrorf("invalid_argument", "unknown model number")
			}
			return fmt.Sprintf("MODEL_PLACEHOLDER_M%d", int(model)-1000), nil
		}
	}
	return "", rpcErrorf("unknown", "neither PlanModel nor RequestedModel specified")
}

// send takes a user's message: it starts a turn, or queues it while one is running.
func (c *conversation) send(request object) (object, *rpcError) {
	if _, err := modelOf(request); err != nil {
		return nil, err
	}
	items, _ := request["items"].([]any)
	if len(items) == 0 {
		return nil, rpcErrorf("invalid_argument", "items are required")
	}
	c.mu.Lock()
	busy := c.stop != nil || (c.s.faults.has("queued") && c.turns == 0 && len(c.queue) == 0)
	if busy {
		c.queue = append(c.queue, request)
		c.mu.Unlock()
		return object{"queued": true}, nil
	}
	c.begin(request)
	c.mu.Unlock()
	return object{}, nil
}

func (c *conversation) sendQueued() (object, *rpcError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop == nil && len(c.queue) > 0 {
		request := c.queue[0]
		c.queue = c.queue[1:]
		c.begin(request)
	}
	return object{}, nil
}

// begin starts a turn; the lock is held.
func (c *conversation) begin(request object) {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.turns++
	go func() {
		c.run(ctx, request)
		c.mu.Lock()
		c.stop = nil
		c.status = "IDLE"
		c.tell()
		c.mu.Unlock()
		stop()
	}()
}

// run is the script of a turn.
func (c *conversation) run(ctx context.Context, request object) {
	if c.s.faults.has("idle-first") {
		c.setStatus("IDLE")
		time.Sleep(250 * time.Millisecond)
	}
	c.setStatus("RUNNING")
	model, _ := modelOf(request)
	prompt := ""
	for _, item := range request["items"].([]any) {
		prompt += textAt(item, "text")
	}
	c.add("USER_INPUT", "DONE", "userInput", object{"items": request["items"], "userResponse": prompt})
	c.add("CONVERSATION_HISTORY", "DONE", "conversationHistory", object{})
	info("planner.go:412", "Requesting planner with %d chat messages", len(c.history())+1)
	if c.s.faults.has("silent") {
		return
	}
	if !c.plan(ctx, model, prompt) {
		return
	}
	if c.s.faults.has("waiting") || c.s.faults.has("waiting-unknown") {
		if !c.waitForPermission(ctx) || !c.plan(ctx, model, "The user refused. "+prompt) {
			return
		}
	}
	if c.s.faults.has("stuck-running") {
		<-ctx.Done()
		return
	}
	c.checkpoint(ctx, model)
}

// plan asks the main model, again after a 503, and tells whether it answered.
func (c *conversation) plan(ctx context.Context, model, prompt string) bool {
	for attempt := 1; ; attempt++ {
		err := c.attempt(ctx, model, prompt)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		var refused *upstreamError
		errors.As(err, &refused)
		c.add("ERROR_MESSAGE", "DONE", "errorMessage", object{"shouldShowUser": true, "error": errorContent(err)})
		failure("planner.go:540", "API error (attempt %d): %v", attempt, err)
		if refused == nil || refused.code != 503 || attempt == attemptsMax {
			return false
		}
		time.Sleep(retryPause)
	}
}

// attempt makes one call to the main model and shows its answer as it grows.
func (c *conversation) attempt(ctx context.Context, model, prompt string) error {
	c.mu.Lock()
	number := len(c.steps)
	c.mu.Unlock()
	history := c.history()
	index := -1
	thinking, text := "", ""
	began := time.Now()
	call := modelCall{model: model, conversation: c.id, trajectory: c.trajectoryID, step: number, history: history, prompt: prompt}
	result, err := c.s.upstream.generate(ctx, call, func(moreThinking, moreText string) {
		thinking, text = thinking+moreThinking, text+moreText
		if index < 0 {
			index = c.add("PLANNER_RESPONSE", "GENERATING", "plannerResponse", object{"messageId": "bot-" + newUUID()})
		}
		if moreText != "" && c.s.faults.has("dies-mid-turn") {
			fmt.Fprintln(os.Stderr, "panic: runtime error: invalid memory address or nil pointer dereference")
			os.Exit(2)
		}
		c.change(index, func(content object) {
			planner := content["plannerResponse"].(object)
			if thinking != "" {
				planner["thinking"] = thinking
			}
			if text != "" {
				planner["modifiedResponse"] = text
			}
		})
	})
	if index < 0 && err == nil {
		index = c.add("PLANNER_RESPONSE", "GENERATING", "plannerResponse", object{"messageId": "bot-" + newUUID()})
	}
	if index < 0 {
		return err
	}
	c.change(index, func(content object) {
		planner, metadata := content["plannerResponse"].(object), content["metadata"].(object)
		content["status"] = "CORTEX_STEP_STATUS_DONE"
		metadata["finishedGeneratingAt"], metadata["completedAt"] = timestamp(time.Now()), timestamp(time.Now())
		metadata["generatorModel"], metadata["requestedModel"] = model, object{"model": model}
		planner["thinkingDuration"] = fmt.Sprintf("%.9fs", time.Since(began).Seconds())
		if usage := modelUsage(model, result, textAt(planner, "messageId")); usage != nil {
			metadata["modelUsage"] = usage
		}
		switch {
		case ctx.Err() != nil:
			content["status"] = "CORTEX_STEP_STATUS_CANCELED"
			planner["stopReason"] = "STOP_REASON_CLIENT_CANCELED"
		case err != nil:
			planner["stopReason"] = "STOP_REASON_CLIENT_STREAM_ERROR"
		default:
			planner["response"] = text
			planner["stopReason"] = stopReason(result.finish)
		}
	})
	return err
}

func stopReason(finish string) string {
	switch finish {
	case "MAX_TOKENS":
		return "STOP_REASON_MAX_TOKENS"
	case "SAFETY", "PROHIBITED_CONTENT":
		return "STOP_REASON_CONTENT_FILTER"
	}
	return "STOP_REASON_STOP_PATTERN"
}

// waitForPermission puts up a command and waits for the user's word.
func (c *conversation) waitForPermission(ctx context.Context) bool {
	asks := object{"runCommand": object{"proposedCommandLine": "rm -rf build"}}
	if c.s.faults.has("waiting-unknown") {
		asks = object{"askSomethingNew": object{"question": "Which one?"}}
	}
	c.mu.Lock()
	c.refusals = 1
	c.mu.Unlock()
	index := c.add("RUN_COMMAND", "WAITING", "runCommand", object{"commandLine": "rm -rf build", "proposedCommandLine": "rm -rf build"})
	c.change(index, func(content object) { content["requestedInteraction"] = asks })
	confirmed := false
	select {
	case <-ctx.Done():
	case confirmed = <-c.interaction:
	}
	c.change(index, func(content object) {
		delete(content, "requestedInteraction")
		content["status"] = "CORTEX_STEP_STATUS_CANCELED"
		if confirmed {
			content["status"] = "CORTEX_STEP_STATUS_DONE"
		}
	})
	return ctx.Err() == nil
}

// checkpoint is the second call of each turn: a small model names the conversation. Its failure fails nothing.
func (c *conversation) checkpoint(ctx context.Context, model string) {
	c.mu.Lock()
	number := len(c.steps)
	c.mu.Unlock()
	call := modelCall{
		model: checkpointModel, conversation: c.id, trajectory: c.trajectoryID, step: number,
		prompt: "Give this conversation a title of five words.", small: true,
	}
	title := ""
	result, err := c.s.upstream.generate(ctx, call, func(_, more string) { title += more })
	status := "DONE"
	if err != nil {
		status = "ERROR"
	}
	index := c.add("CHECKPOINT", "RUNNING", "checkpoint", object{"intentOnly": true, "includedStepIndexEnd": number - 1})
	c.change(index, func(content object) {
		content["status"] = "CORTEX_STEP_STATUS_" + status
		content["checkpoint"].(object)["userIntent"] = title
		metadata := content["metadata"].(object)
		metadata["completedAt"] = timestamp(time.Now())
		if usage := modelUsage(checkpointModel, result, ""); usage != nil {
			metadata["modelUsage"] = usage
			// The real one repeats the step's usage here; whoever adds both counts twice.
			metadata["retryInfos"] = []any{object{"usage": usage}}
		}
	})
}

// history is what was said before, as the provider is told it.
func (c *conversation) history() []spoken {
	c.mu.Lock()
	defer c.mu.Unlock()
	var said []spoken
	for i, s := range c.steps {
		switch kind := strings.TrimPrefix(textAt(s.content, "type"), "CORTEX_STEP_TYPE_"); kind {
		case "USER_INPUT":
			if i < len(c.steps)-2 { // the present prompt is said by the call itself
				said = append(said, spoken{"user", textAt(s.content, "userInput", "userResponse")})
			}
		case "PLANNER_RESPONSE":
			said = append(said, spoken{"model", textAt(s.content, "plannerResponse", "response")})
		}
	}
	return said
}

// errorContent is how an error looks inside an ERROR_MESSAGE step.
func errorContent(err error) object {
	var refused *upstreamError
	if !errors.As(err, &refused) {
		return object{
			"userErrorMessage": "Agent execution terminated due to error.", "modelErrorMessage": "The model is currently unreachable.",
			"shortError": err.Error(), "fullError": err.Error(), "errorId": newUUID(),
		}
	}
	user := "Agent execution terminated due to error."
	if refused.code == 503 || refused.code == 429 {
		user = "Our servers are experiencing high traffic right now, please try again in a minute."
	}
	details := []any{}
	for _, detail := range refused.details {
		details = append(details, string(detail))
	}
	return object{
		"userErrorMessage": user, "modelErrorMessage": "The model is currently unreachable.",
		"shortError": fmt.Sprintf("%s (code %d): %s", refused.status, refused.code, refused.message),
		"fullError":  fmt.Sprintf("HTTP %d %s\nSherlog: \nTraceID: 0x1a78\nHeaders: {\"Server\":[\"ESF\"]}\n\n%s", refused.code, refused.status, refused.body),
		"errorCode":  refused.code, "details": refused.body, "errorId": newUUID(), "rpcErrorDetails": details,
	}
}
