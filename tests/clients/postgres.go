// lib/pq and database/sql through the Postgres door. Prints one line for each check.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

// A busy machine takes its time.
const patience = 90 * time.Second

func conninfo(more string) string {
	return fmt.Sprintf("host=%s port=%s user=any dbname=shop sslmode=disable password='%s' %s",
		os.Getenv("DOORWARD_HOST"), os.Getenv("DOORWARD_PORT"), os.Getenv("DOORWARD_TOKEN"), more)
}

func open(more string) *sql.DB {
	db, err := sql.Open("postgres", conninfo(more))
	ok(err)
	return db
}

func ok(err error) {
	if err != nil {
		panic(err)
	}
}

func is(found, wanted interface{}) {
	if found != wanted {
		panic(fmt.Sprintf("%v instead of %v", found, wanted))
	}
}

func one(db *sql.DB, query string, values ...interface{}) (text string) {
	ok(db.QueryRow(query, values...).Scan(&text))
	return text
}

// refused says with which SQLSTATE the door has refused it, and that it has said why.
func refused(err error) string {
	var told *pq.Error
	if !errors.As(err, &told) {
		panic(fmt.Sprintf("not refused: %v", err))
	}
	return string(told.Code)
}

func parameters() {
	db := open("")
	defer db.Close()
	is(one(db, "select count(*) from orders where id < $1", 5), "4")
	for n := 1; n < 9; n++ {
		is(one(db, "select customer || ' ' || total from orders where id = $1", n), fmt.Sprintf("customer %d %d", n, n))
	}
	var ids []int64
	ok(db.QueryRow("select array_agg(id order by id) from orders where id = any($1)", pq.Array([]int64{7, 3})).Scan(pq.Array(&ids)))
	is(fmt.Sprint(ids), "[3 7]")
	is(one(db, "select length($1::text)", strings.Repeat("z", 3_000_000)), "3000000")
}

// Parse, Bind, Describe, Execute and Sync in one message, values in binary.
func binaryParameters() {
	db := open("binary_parameters=yes")
	defer db.Close()
	is(one(db, "select length($1::bytea)", []byte{0, 255, 0}), "3")
	for n := 1; n < 9; n++ {
		is(one(db, "select customer from orders where id = $1", n), fmt.Sprintf("customer %d", n))
	}
}

// Statements of a pool: database/sql prepares them on each connection that it happens to use.
func preparedInAPool() {
	db := open("")
	defer db.Close()
	db.SetMaxOpenConns(4)
	statement, err := db.Prepare("select customer from orders where id = $1")
	ok(err)
	defer statement.Close()
	failures := make(chan error, 8)
	var workers sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		workers.Add(1)
		go func(worker int) {
			defer workers.Done()
			for n := 1; n < 20; n++ {
				var customer string
				err := statement.QueryRow(n).Scan(&customer)
				if err == nil && customer != fmt.Sprintf("customer %d", n) {
					err = fmt.Errorf("%d: %s", n, customer)
				}
				if err != nil {
					failures <- err
					return
				}
			}
		}(worker)
	}
	workers.Wait()
	close(failures)
	ok(<-failures)
}

func transactions() {
	db := open("")
	defer db.Close()
	tx, err := db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelSerializable})
	ok(err)
	var id int
	ok(tx.QueryRow("insert into orders (customer) values ($1) returning id", "from Go").Scan(&id))
	_, err = tx.Exec("savepoint s")
	ok(err)
	_, err = tx.Exec("select * from secrets")
	is(refused(err), "42501")
	_, err = tx.Exec("rollback to s")
	ok(err)
	result, err := tx.Exec("update orders set total = 2.5 where id = $1", id)
	ok(err)
	changed, err := result.RowsAffected()
	ok(err)
	is(changed, int64(1))
	ok(tx.Rollback())
	is(one(db, "select count(*) from orders where customer = 'from Go'"), "0")
}

func copies() {
	db := open("")
	defer db.Close()
	tx, err := db.Begin()
	ok(err)
	statement, err := tx.Prepare(pq.CopyIn("orders", "customer", "total"))
	ok(err)
	for n := 0; n < 500; n++ {
		_, err = statement.Exec(fmt.Sprintf("copied by Go %d", n), n)
		ok(err)
	}
	_, err = statement.Exec()
	ok(err)
	ok(statement.Close())
	var count, sum string
	ok(tx.QueryRow("select count(*), sum(total) from orders where customer like 'copied by Go%'").Scan(&count, &sum))
	is(count+" "+sum, "500 124750")
	ok(tx.Rollback())
}

func refusals() {
	db := open("")
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, query := range []string{"select word from secrets", "select word from secrets where id = $1"} {
		values := []interface{}{1}[:strings.Count(query, "$")]
		_, err := db.Query(query, values...)
		is(refused(err), "42501")
		var told *pq.Error
		errors.As(err, &told)
		if !strings.Contains(told.Detail, "no-secrets") || told.Hint == "" {
			panic(told)
		}
		is(one(db, "select 'lives on'"), "lives on")
	}
}

func notifications() {
	listener := pq.NewListener(conninfo(""), time.Second, time.Minute, nil)
	defer listener.Close()
	ok(listener.Listen("news"))
	is(refused(listener.Listen("others")), "42501")
	db := open("")
	defer db.Close()
	_, err := db.Exec("select pg_notify('news', $1)", "from Go")
	ok(err)
	for {
		select {
		case note := <-listener.Notify:
			if note == nil {
				continue
			}
			is(note.Channel+": "+note.Extra, "news: from Go")
			return
		case <-time.After(patience):
			panic("no notification")
		}
	}
}

func cancels() {
	db := open("")
	defer db.Close()
	db.SetMaxOpenConns(1)
	soon, stop := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer stop()
	_, err := db.QueryContext(soon, "select count(*) from big a, big b, big c")
	if !errors.Is(err, context.DeadlineExceeded) {
		is(refused(err), "57014")
	}
	is(one(db, "select 'lives on'"), "lives on")
}

func main() {
	checks := []struct {
		name  string
		check func()
	}{
		{"parameters", parameters},
		{"binary parameters", binaryParameters},
		{"prepared in a pool", preparedInAPool},
		{"transactions", transactions},
		{"copies", copies},
		{"refusals", refusals},
		{"notifications", notifications},
		{"cancels", cancels},
	}
	for _, one := range checks {
		one.check()
		fmt.Println("ok", one.name)
	}
}
