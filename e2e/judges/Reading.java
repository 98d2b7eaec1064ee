import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.File;
import org.apache.catalina.startup.Tomcat;

/** Tomcat, with a servlet that answers what it reads as a request's path: {@code Reading PORT FOLDER}. */
public class Reading {
    public static void main(String[] arguments) throws Exception {
        var tomcat = new Tomcat();
        tomcat.setBaseDir(arguments[1]);
        tomcat.setPort(Integer.parseInt(arguments[0]));
        var connector = tomcat.getConnector();
        connector.setProperty("address", "127.0.0.1");
        // The reading that goes farthest: by default it refuses them.
        connector.setEncodedSolidusHandling("decode");
        var context = tomcat.addContext("", new File(arguments[1]).getAbsolutePath());
        Tomcat.addServlet(context, "reading", new HttpServlet() {
            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) {
                var rest = request.getPathInfo();
                response.setHeader("X-Path", "[" + request.getServletPath() + (rest == null ? "" : rest) + "]");
            }
        });
        context.addServletMappingDecoded("/*", "reading");
        tomcat.start();
        tomcat.getServer().await();
    }
}
