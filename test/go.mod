module github.com/dian-im/dian/test

go 1.26.6


