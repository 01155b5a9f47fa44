module wiremeter.test/http2_client

go 1.19
