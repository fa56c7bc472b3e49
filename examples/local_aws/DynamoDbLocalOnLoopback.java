import com.amazonaws.services.dynamodbv2.local.main.ServerRunner;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/**
 * DynamoDB Local on a free port of the loopback address, which it has no flags for. Prints the port when it listens.
 * Run from source, so that a Java runtime is all it takes.
 */
class DynamoDbLocalOnLoopback {
    public static void main(String[] arguments) throws Exception {
        var local = ServerRunner.createServerFromCommandLineArgs(arguments);
        var field = local.getClass().getDeclaredField("server");
        field.setAccessible(true);
        var connector = (ServerConnector) ((Server) field.get(local)).getConnectors()[0];
        connector.setHost("127.0.0.1");
        connector.setPort(0);
        local.safeStart(); // unlike start(), it reports to nobody
        System.out.println("listening on port " + connector.getLocalPort());
        local.join();
    }
}
