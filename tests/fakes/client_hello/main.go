// client_hello writes to its standard output the first bytes of a TLS connection as Go's crypto/tls sends them.
//
//	client_hello <server name> <newest version: 1.2 or 1.3> [protocol ...]
package main

import (
	"crypto/tls"
	"net"
	"os"
)

// recorder is a connection whose peer takes what it is sent, then says nothing and is gone.
type recorder struct{ net.Conn }

func (recorder) Write(data []byte) (int, error) { return os.Stdout.Write(data) }

func main() {
	near, far := net.Pipe()
	far.Close()
	config := &tls.Config{ServerName: os.Args[1], MaxVersion: tls.VersionTLS12, NextProtos: os.Args[3:]}
	if os.Args[2] == "1.3" {
		config.MaxVersion = tls.VersionTLS13
	}
	// It fails: there is nobody to answer.
	_ = tls.Client(recorder{near}, config).Handshake()
}
