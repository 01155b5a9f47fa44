// A program as developers write them: grpc-go, configured by nothing but the environment, and two calls of the Gemini
// API's gRPC form, one answered by a message, one by a stream of them.
//
//	grpc_client HOST:PORT MODEL
//
// Prints how many messages came for each call. A stub would need generated code; the two messages that are sent are
// written by hand, and those that come are counted. Needs google.golang.org/grpc, of which Debian has 1.33 as source.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

const service = "/google.ai.generativelanguage.v1beta.GenerativeService/"

// asBytes lets messages pass as they are.
type asBytes struct{}

func (asBytes) Name() string                          { return "proto" }
func (asBytes) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (asBytes) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}

func main() {
	log.SetFlags(0)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	connection, err := grpc.DialContext(ctx, os.Args[1],
		grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(nil, "")),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(asBytes{})),
	)
	must(err)
	defer connection.Close()
	request := append([]byte{0x0a, byte(len(os.Args[2]))}, os.Args[2]...) // field 1, the model

	var answer []byte
	must(connection.Invoke(ctx, service+"GenerateContent", &request, &answer))
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, service+"StreamGenerateContent")
	must(err)
	must(stream.SendMsg(&request))
	must(stream.CloseSend())
	messages := 0
	for {
		if err = stream.RecvMsg(&answer); err == io.EOF {
			break
		}
		must(err)
		messages++
	}
	fmt.Println(1, messages)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
