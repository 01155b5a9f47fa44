// A program as developers write them: Go's default HTTP client and one call to a model.
//
//	go_client URL [PROMPT]
//
// Prints the status. Nothing is configured but the environment.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	arguments := os.Args[1:]
	prompt := "Hello"
	if len(arguments) > 1 {
		prompt = arguments[1]
	}
	body, _ := json.Marshal(map[string]any{
		"contents": []any{map[string]any{"role": "user", "parts": []any{map[string]any{"text": prompt}}}},
	})
	response, err := http.Post(arguments[0], "application/json", bytes.NewReader(body))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer response.Body.Close()
	if _, err = io.Copy(io.Discard, response.Body); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(response.StatusCode)
}
