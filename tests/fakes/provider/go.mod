module wiremeter.test/provider

go 1.19
