module weir.dev/hack/pause

go 1.21
