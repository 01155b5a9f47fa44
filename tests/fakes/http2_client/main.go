// Command http2_client makes requests as gRPC clients do: HTTP/2 and nothing else is offered, many streams share one
// connection, bodies have no length, trailers come behind them.
//
//	http2_client --connect 127.0.0.1:8742 --ca-file bundle.pem --host api.anthropic.com --path /v1/messages \
//	             --body '{"model": …}' --requests 50
//
// It prints one JSON object: for each request its protocol, status, body and trailers, or the error. With --serve it is
// instead a server that answers each request with its own body, piece by piece, and trailers that have its length;
// it prints its address and ends when stdin does. Standard library only, Go 1.19.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
)

type result struct {
	Proto    string              `json:"proto"`
	Status   int                 `json:"status"`
	Body     string              `json:"body"`
	Trailers map[string][]string `json:"trailers"`
	Error    string              `json:"error"`
}

func main() {
	log.SetFlags(0)
	connect := flag.String("connect", "", "address to connect to, whatever the host")
	caFile := flag.String("ca-file", "", "authorities to trust")
	host := flag.String("host", "", "host to ask")
	path := flag.String("path", "/", "path to ask for")
	body := flag.String("body", "", "body to send; - sends stdin")
	requests := flag.Int("requests", 1, "how many at once")
	serve := flag.String("serve", "", "PEM file with certificate and key: be the server")
	flag.Parse()
	if *serve != "" {
		server(*serve)
		return
	}
	pem, err := os.ReadFile(*caFile)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	content := *body
	if content == "-" {
		data, err := io.ReadAll(os.Stdin)
		if err != nil {
			log.Fatal(err)
		}
		content = string(data)
	}
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, *connect)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(conn, &tls.Config{ServerName: *host, RootCAs: roots, NextProtos: []string{"h2"}})
			return secure, secure.HandshakeContext(ctx)
		},
	}}
	results := make([]result, *requests)
	// The first makes the connection that the others share.
	results[0] = ask(client, "https://"+*host+*path, content)
	var all sync.WaitGroup
	for n := 1; n < *requests; n++ {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			results[n] = ask(client, "https://"+*host+*path, content)
		}(n)
	}
	all.Wait()
	json.NewEncoder(os.Stdout).Encode(results)
}

func ask(client *http.Client, url, content string) result {
	// A reader that is not known to have a length.
	request, err := http.NewRequest("POST", url, io.MultiReader(strings.NewReader(content)))
	if err != nil {
		return result{Error: err.Error()}
	}
	request.Header.Set("content-type", "application/json")
	request.Header.Set("te", "trailers")
	request.Trailer = http.Header{"X-Sent": {fmt.Sprint(len(content))}}
	response, err := client.Do(request)
	if err != nil {
		return result{Error: err.Error()}
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	found := result{Proto: response.Proto, Status: response.StatusCode, Body: string(data), Trailers: response.Trailer}
	if err != nil {
		found.Error = err.Error()
	}
	return found
}

func server(pem string) {
	certificate, err := tls.LoadX509KeyPair(pem, pem)
	if err != nil {
		log.Fatal(err)
	}
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Received, X-Sent")
		total := 0
		piece := make([]byte, 7000)
		for {
			n, err := r.Body.Read(piece)
			w.Write(piece[:n])
			w.(http.Flusher).Flush()
			total += n
			if err != nil {
				break
			}
		}
		w.Header().Set("X-Received", fmt.Sprint(total))
		w.Header().Set("X-Sent", r.Trailer.Get("X-Sent"))
	}
	server := &http.Server{
		Handler:   http.HandlerFunc(answer),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}},
	}
	fmt.Println(listening.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(server.ServeTLS(listening, "", ""))
}
