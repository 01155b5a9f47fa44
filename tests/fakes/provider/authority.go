package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// authority signs the one certificate of this process.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	der         []byte
}

// makeCertificate makes (or takes up) the authority, writes it to --ca-file and signs a certificate of the wanted kind.
func makeCertificate(o options) (tls.Certificate, error) {
	ca, err := openAuthority(o)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := leafTemplate(o)
	signer, signerKey := ca.certificate, ca.key
	if o.certificate == "self-signed" {
		signer, signerKey = leaf, key
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, signer, &key.PublicKey, signerKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func leafTemplate(o options) *x509.Certificate {
	leaf := &x509.Certificate{
		SerialNumber: serialNumber(),
		NotBefore:    time.Now().Add(-24 * time.Hour),
		NotAfter:     time.Now().Add(30 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     append(strings.Split(o.names, ","), "localhost"),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, address := range o.listen {
		if host, _, err := net.SplitHostPort(address); err == nil && net.ParseIP(host) != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, net.ParseIP(host))
		}
	}
	switch o.certificate {
	case "expired":
		leaf.NotBefore, leaf.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	case "not-yet":
		leaf.NotBefore = time.Now().Add(24 * time.Hour)
	case "other-name":
		leaf.DNSNames, leaf.IPAddresses = []string{"somewhere-else.invalid"}, nil
	case "good", "self-signed":
	default:
		must(errors.New("--certificate " + o.certificate + " is not known"))
	}
	return leaf
}

func openAuthority(o options) (*authority, error) {
	if o.caFile != "" && o.caKey != "" {
		if ca, err := loadAuthority(o.caFile, o.caKey); err == nil {
			return ca, nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serialNumber(),
		Subject:               pkix.Name{CommonName: "Provider stand-in authority", Organization: []string{"Wiremeter tests"}},
		NotBefore:             time.Now().Add(-24 * time.Hour),
		NotAfter:              time.Now().Add(60 * 24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	ca := &authority{certificate: certificate, key: key, der: der}
	return ca, ca.save(o)
}

func (ca *authority) save(o options) error {
	if o.caFile == "" {
		return nil
	}
	if o.caKey != "" {
		der, err := x509.MarshalPKCS8PrivateKey(ca.key)
		if err != nil {
			return err
		}
		if err := writePEM(o.caKey, "PRIVATE KEY", der, 0o600); err != nil {
			return err
		}
	}
	return writePEM(o.caFile, "CERTIFICATE", ca.der, 0o644)
}

func loadAuthority(certificateFile, keyFile string) (*authority, error) {
	pair, err := tls.LoadX509KeyPair(certificateFile, keyFile)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the authority's key is no ECDSA key")
	}
	return &authority{certificate: certificate, key: key, der: pair.Certificate[0]}, nil
}

// writePEM writes by rename: a reader never sees half a certificate.
func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	temporary := path + ".new"
	content := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return err
	}
	if err := os.Chmod(temporary, mode); err != nil { // whatever the umask says: other users must be able to trust it
		return err
	}
	return os.Rename(temporary, path)
}

func serialNumber() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(err)
	return n.Add(n, big.NewInt(1))
}
