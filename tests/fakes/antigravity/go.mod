module wiremeter.test/antigravity

go 1.19
