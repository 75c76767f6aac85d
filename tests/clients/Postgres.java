// pgjdbc through the Postgres door. Prints one line for each check. Run as one file: java -cp postgresql.jar Postgres.java

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

public class Postgres {
    // A busy machine takes its time.
    static final int PATIENCE_MS = 90_000;

    interface Check {
        void run(Connection connection) throws Exception;
    }

    static Connection connect(String... more) throws SQLException {
        String url = "jdbc:postgresql://" + System.getenv("DOORWARD_HOST") + ":" + System.getenv("DOORWARD_PORT") + "/shop";
        Properties properties = new Properties();
        properties.setProperty("user", "any");
        properties.setProperty("password", System.getenv("DOORWARD_TOKEN"));
        properties.setProperty("ApplicationName", "pgjdbc");
        for (String one : more) {
            properties.setProperty(one.split("=")[0], one.split("=")[1]);
        }
        return DriverManager.getConnection(url, properties);
    }

    static void is(Object wanted, Object found) {
        if (!wanted.equals(found)) {
            throw new AssertionError(found + " instead of " + wanted);
        }
    }

    static void check(String name, Check check, String... more) throws Exception {
        try (Connection connection = connect(more)) {
            check.run(connection);
        }
        System.out.println("ok " + name);
    }

    static void refused(SQLException error) {
        is("42501", error.getSQLState());
        if (!error.getMessage().contains("no-secrets")) {
            throw new AssertionError(error.getMessage());
        }
    }

    /** From the fifth execution on it is a prepared statement of the server, with binary values. */
    static void parameters(Connection connection) throws Exception {
        try (PreparedStatement select = connection.prepareStatement("select id, customer from orders where id = ?")) {
            for (int n = 1; n <= 12; n++) {
                select.setInt(1, n);
                try (ResultSet rows = select.executeQuery()) {
                    rows.next();
                    is(n, rows.getInt(1));
                    is("customer " + n, rows.getString(2));
                }
            }
        }
    }

    static void batches(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (PreparedStatement insert = connection.prepareStatement("insert into orders (customer) values (?)")) {
            for (int n = 0; n < 500; n++) {
                insert.setString(1, "batch " + n);
                insert.addBatch();
            }
            is(500, insert.executeBatch().length);
        }
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery("select count(*) from orders where customer like 'batch %'")) {
            rows.next();
            is(500L, rows.getLong(1));
        }
        connection.rollback();
    }

    static void generatedKeys(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (PreparedStatement insert = connection.prepareStatement("insert into orders (customer) values ('keyed')", Statement.RETURN_GENERATED_KEYS)) {
            is(1, insert.executeUpdate());
            try (ResultSet keys = insert.getGeneratedKeys()) {
                is(true, keys.next() && keys.getInt("id") > 20);
            }
        }
        connection.rollback();
    }

    /** A fetch size makes it read by a portal, piece by piece. */
    static void portals(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(70);
            int count = 0;
            try (ResultSet rows = statement.executeQuery("select n from big")) {
                while (rows.next()) {
                    count++;
                }
            }
            is(3000, count);
        }
        connection.commit();
    }

    static void savepointsAndRefusals(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            Savepoint savepoint = connection.setSavepoint();
            try {
                statement.executeQuery("select word from secrets");
                throw new AssertionError("not refused");
            } catch (SQLException error) {
                refused(error);
            }
            connection.rollback(savepoint);
            is(true, statement.executeQuery("select count(*) from orders").next());
        }
        connection.commit();
        connection.setAutoCommit(true);
        connection.setReadOnly(true);
        connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
        is(true, connection.isValid(PATIENCE_MS / 1000));
    }

    static void metadata(Connection connection) throws Exception {
        DatabaseMetaData data = connection.getMetaData();
        try (ResultSet tables = data.getTables(null, "public", "orders", new String[] {"TABLE"})) {
            is(true, tables.next());
        }
        try (ResultSet columns = data.getColumns(null, "public", "orders", "%")) {
            is(true, columns.next() && columns.next() && columns.next() && !columns.next());
        }
        try (ResultSet keys = data.getPrimaryKeys(null, "public", "orders")) {
            is(true, keys.next());
            is("id", keys.getString("COLUMN_NAME"));
        }
        try (ResultSet indexes = data.getIndexInfo(null, "public", "orders", false, false)) {
            is(true, indexes.next());
        }
        data.getSchemas().close();
        data.getTypeInfo().close();
        data.getTablePrivileges(null, "public", "orders").close();
        data.getImportedKeys(null, "public", "orders").close();
        data.getFunctions(null, "public", "%").close();
        try (PreparedStatement select = connection.prepareStatement("select * from orders where id = ?")) {
            is("customer", select.getMetaData().getColumnName(2));
            is(1, select.getParameterMetaData().getParameterCount());
        }
    }

    static void copies(Connection connection) throws Exception {
        CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int n = 0; n < 400; n++) {
            lines.append("copied by java ").append(n).append('\n');
        }
        is(400L, copies.copyIn("copy orders (customer) from stdin", new StringReader(lines.toString())));
        StringWriter out = new StringWriter();
        is(400L, copies.copyOut("copy (select customer from orders where customer like 'copied by java%') to stdout", out));
        try (Statement statement = connection.createStatement()) {
            is(400, statement.executeUpdate("delete from orders where customer like 'copied by java%'"));
        }
    }

    static void notifications(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("listen news");
            try (Connection other = connect(); Statement calls = other.createStatement()) {
                calls.execute("notify news, 'from java'");
            }
            PGNotification[] notes = connection.unwrap(PGConnection.class).getNotifications(PATIENCE_MS);
            is("from java", notes[0].getParameter());
        }
    }

    static void timeouts(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            try {
                statement.executeQuery("select count(*) from big a, big b, big c");
                throw new AssertionError("not cancelled");
            } catch (SQLException error) {
                is("57014", error.getSQLState());
            }
            statement.setQueryTimeout(0);
            is(true, statement.executeQuery("select 1").next());
        }
    }

    public static void main(String[] arguments) throws Exception {
        check("parameters", Postgres::parameters);
        check("batches", Postgres::batches, "reWriteBatchedInserts=true");
        check("generated keys", Postgres::generatedKeys);
        check("portals", Postgres::portals, "defaultRowFetchSize=100");
        check("savepoints and refusals", Postgres::savepointsAndRefusals);
        check("metadata", Postgres::metadata);
        check("copies", Postgres::copies);
        check("notifications", Postgres::notifications, "preferQueryMode=simple");
        check("timeouts", Postgres::timeouts, "binaryTransfer=true", "prepareThreshold=1");
    }
}
