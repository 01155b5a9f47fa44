module client_hello

go 1.19
